package cli

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
)

// engine is a small engine behind a unix socket, for the client's streams and
// output: its containers are processes of the host, on a terminal of their own
// when they ask for one. It knows the image busybox, and pulls any other whose
// name does not begin with "nosuch".
type engine struct {
	mu         sync.Mutex
	containers []*process // guarded by mu
	images     []string   // guarded by mu
	requests   []string   // guarded by mu
}

// process is a container or an exec.
type process struct {
	id, name string
	cmd      []string
	tty      bool
	stdin    bool
	remove   bool
	of       string // the container of an exec
	config   container.Config
	host     container.HostConfig

	state   container.ContainerState
	code    int
	run     *exec.Cmd
	master  *os.File
	log     []byte
	client  net.Conn      // who is attached
	done    chan struct{} // closed at the end
	cut     chan struct{} // closed when the connections are cut
	started chan struct{}
}

// startEngine serves until the test ends and returns the address.
func startEngine(t testing.TB, socket string) *engine {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{images: []string{"busybox:latest"}}
	srv := &http.Server{Handler: e}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, p := range e.containers {
			if p.run != nil && p.run.Process != nil {
				_ = p.run.Process.Kill()
			}
		}
	})
	return e
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1."); ok {
		_, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	}
	e.mu.Lock()
	e.requests = append(e.requests, r.Method+" "+path)
	e.mu.Unlock()
	w.Header().Set("Api-Version", "1.56")
	w.Header().Set("Ostype", "linux")
	part := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/_ping":
	case path == "/version":
		answer(w, 200, map[string]any{"Platform": map[string]string{"Name": "Fake"}, "Version": "1.2.3", "ApiVersion": "1.56", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64",
			"Components": []any{map[string]any{"Name": "Engine", "Version": "1.2.3", "Details": map[string]string{"ApiVersion": "1.56", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64", "GoVersion": "go9"}}}})
	case path == "/info":
		answer(w, 200, map[string]any{"ID": "fake-id", "Containers": 1, "Driver": "overlay2", "ServerVersion": "1.2.3", "OSType": "linux", "Warnings": []string{"WARNING: all is fake"}})
	case path == "/events":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"name":"x","image":"busybox"}},"time":1700000000,"timeNano":1700000000000000001}`)
	case path == "/networks":
		answer(w, 200, []network.Summary{{Network: network.Network{Name: "none", ID: "cccccccccccccccccc", Driver: "null", Scope: "local"}}, {Network: network.Network{Name: "bridge", ID: "bbbbbbbbbbbbbbbbbb", Driver: "bridge", Scope: "local"}}})
	case path == "/volumes":
		answer(w, 200, map[string]any{"Volumes": []any{map[string]any{"Name": "data10", "Driver": "local"}, map[string]any{"Name": "data9", "Driver": "local"}}})
	case path == "/images/search", path == "/auth", path == "/hezi/registry/test", strings.HasPrefix(path, "/hezi/manifest"):
		serveRegistries(w, r, path)
	case part[0] == "images":
		e.serveImages(w, r, part)
	case path == "/containers/json":
		e.list(w, r)
	case path == "/containers/create":
		e.create(w, r)
	case part[0] == "containers" && len(part) >= 2, part[0] == "exec":
		e.serveProcess(w, r, part)
	default:
		refuse(w, 404, "page not found")
	}
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code int, message string) {
	answer(w, code, map[string]string{"message": message})
}

func tagged(name string) string {
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return name
}

func (e *engine) serveImages(w http.ResponseWriter, r *http.Request, part []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := strings.Join(part[1:len(part)-1], "/")
	switch {
	case len(part) == 2 && part[1] == "json":
		var list []image.Summary
		for i, n := range e.images {
			list = append(list, summary(i, n))
		}
		answer(w, 200, list)
	case len(part) == 2 && part[1] == "create":
		short := strings.TrimPrefix(r.FormValue("fromImage"), "docker.io/library/")
		from := short + ":" + r.FormValue("tag")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status":"Pulling from library/%s","id":"latest"}`+"\n", short)
		if strings.HasPrefix(from, "nosuch") {
			fmt.Fprintln(w, `{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}`)
			return
		}
		fmt.Fprintln(w, `{"status":"Pull complete","progressDetail":{},"id":"0123456789ab"}`)
		fmt.Fprintf(w, `{"status":"Status: Downloaded newer image for %s"}`+"\n", from)
		e.images = append(e.images, from)
	case part[len(part)-1] == "json" && slices.Contains(e.images, tagged(name)):
		answer(w, 200, map[string]any{"Id": "sha256:1", "RepoTags": []string{tagged(name)}, "Os": "linux", "Architecture": "amd64", "Unknown": "kept"})
	case part[len(part)-1] == "history":
		answer(w, 200, []image.HistoryResponseItem{{ID: fmt.Sprintf("sha256:%064d", 1), Created: time.Now().Add(-time.Hour).Unix(), CreatedBy: "/bin/sh -c #(nop)  CMD [\"sh\"] and a long rest of the line", Size: 1_500_000, Comment: "made"}, {ID: "<missing>", Created: 0, CreatedBy: "ADD file"}})
	case r.Method == "DELETE":
		name := tagged(strings.Join(part[1:], "/"))
		if !slices.Contains(e.images, name) {
			refuse(w, 404, "No such image: "+name)
			return
		}
		answer(w, 200, []image.DeleteResponse{{Untagged: name}, {Deleted: "sha256:1"}})
	case part[len(part)-1] == "tag":
		e.images = append(e.images, strings.TrimPrefix(r.FormValue("repo"), "docker.io/library/")+":"+r.FormValue("tag"))
		w.WriteHeader(201)
	default:
		refuse(w, 404, "No such image: "+name)
	}
}

// summary is the image of a name; a container uses the first one.
func summary(i int, name string) image.Summary {
	id := fmt.Sprintf("sha256:%064d", i+1)
	s := image.Summary{ID: id, RepoTags: []string{name}, Created: time.Now().Add(-time.Hour * 49).Unix(), Size: 4_200_000, Containers: -1, SharedSize: -1,
		Manifests: []image.ManifestSummary{{ID: id, Available: true, Kind: image.ManifestKindImage, ImageData: &image.ImageProperties{}}}}
	m := &s.Manifests[0]
	m.Size.Content, m.Size.Total = 1_200_000, 4_200_000
	m.ImageData.Platform.OS, m.ImageData.Platform.Architecture = "linux", "amd64"
	if i == 0 {
		m.ImageData.Containers = []string{"x"}
	}
	return s
}

func (e *engine) list(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []container.Summary{}
	for _, p := range e.containers {
		if p.of != "" || p.state != container.StateRunning && r.FormValue("all") != "1" {
			continue
		}
		status := map[container.ContainerState]string{container.StateRunning: "Up 2 minutes", container.StateExited: fmt.Sprintf("Exited (%d) 1 second ago", p.code), container.StateCreated: "Created"}[p.state]
		list = append(list, container.Summary{ID: p.id, Names: []string{"/" + p.name}, Image: p.config.Image, ImageID: "sha256:1", Command: strings.Join(p.cmd, " "), Created: time.Now().Add(-3 * time.Minute).Unix(), State: p.state, Status: status, Labels: p.config.Labels,
			Ports: []container.PortSummary{{PrivatePort: 80, Type: "tcp"}}})
	}
	slices.Reverse(list)
	answer(w, 200, list)
}

func (e *engine) create(w http.ResponseWriter, r *http.Request) {
	var body struct {
		container.Config
		HostConfig container.HostConfig
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		refuse(w, 400, err.Error())
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.images, tagged(body.Image)) {
		refuse(w, 404, "No such image: "+tagged(body.Image))
		return
	}
	name := r.FormValue("name")
	id := fmt.Sprintf("%064x", 0xabc000+len(e.containers))
	if name == "" {
		name = "box" + strconv.Itoa(len(e.containers))
	}
	if slices.ContainsFunc(e.containers, func(p *process) bool { return p.name == name }) {
		refuse(w, 409, `Conflict. The container name "/`+name+`" is already in use`)
		return
	}
	e.containers = append(e.containers, &process{id: id, name: name, cmd: append(slices.Clone(body.Entrypoint), body.Cmd...), tty: body.Tty, stdin: body.OpenStdin, remove: body.HostConfig.AutoRemove, config: body.Config, host: body.HostConfig, state: container.StateCreated, done: make(chan struct{}), cut: make(chan struct{}), started: make(chan struct{})})
	warnings := []string{}
	if body.Labels["warn"] != "" {
		warnings = append(warnings, body.Labels["warn"])
	}
	answer(w, 201, container.CreateResponse{ID: id, Warnings: warnings})
}

func (e *engine) find(id string) *process {
	for _, p := range e.containers {
		if p.id == id || p.name == id {
			return p
		}
	}
	return nil
}

func (e *engine) serveProcess(w http.ResponseWriter, r *http.Request, part []string) {
	e.mu.Lock()
	p := e.find(part[1])
	e.mu.Unlock()
	if p == nil {
		refuse(w, 404, "No such container: "+part[1])
		return
	}
	action := ""
	if len(part) > 2 {
		action = part[2]
	}
	switch action {
	case "json":
		e.inspect(w, p)
	case "attach":
		e.attach(w, r, p)
	case "start":
		e.start(w, r, p)
	case "wait":
		e.wait(w, p)
	case "logs":
		w.Header().Set("Content-Type", "application/vnd.docker.multiplexed-stream")
		e.mu.Lock()
		_, _ = w.Write(p.log)
		e.mu.Unlock()
	case "kill":
		e.kill(w, r, p)
	case "stop", "restart", "pause", "unpause":
		w.WriteHeader(204)
	case "rename":
		e.mu.Lock()
		p.name = r.FormValue("name")
		e.mu.Unlock()
		w.WriteHeader(204)
	case "resize":
		h, _ := strconv.Atoi(r.FormValue("h"))
		wd, _ := strconv.Atoi(r.FormValue("w"))
		e.mu.Lock()
		defer e.mu.Unlock()
		if p.master == nil {
			refuse(w, 409, "not running")
			return
		}
		_ = pty.Setsize(p.master, &pty.Winsize{Rows: uint16(h), Cols: uint16(wd)})
	case "top":
		answer(w, 200, container.TopResponse{Titles: []string{"PID", "CMD"}, Processes: [][]string{{"1", "sh"}, {"22", "sleep 100"}}})
	case "exec":
		e.createExec(w, r, p)
	case "":
		e.removeContainer(w, r, p)
	default:
		refuse(w, 404, "page not found")
	}
}

func (e *engine) inspect(w http.ResponseWriter, p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.of != "" {
		answer(w, 200, map[string]any{"ID": p.id, "Running": p.state == container.StateRunning, "ExitCode": p.code})
		return
	}
	answer(w, 200, container.InspectResponse{ID: p.id, Name: "/" + p.name, Config: &p.config, HostConfig: &p.host,
		State:           &container.State{Status: p.state, Running: p.state == container.StateRunning, ExitCode: p.code},
		NetworkSettings: &container.NetworkSettings{Ports: p.host.PortBindings}})
}

func (e *engine) createExec(w http.ResponseWriter, r *http.Request, of *process) {
	var body container.ExecCreateRequest
	_ = json.NewDecoder(r.Body).Decode(&body)
	if of.state != container.StateRunning {
		refuse(w, 409, "container "+of.id+" is not running")
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := &process{id: "exec" + strconv.Itoa(len(e.containers)), name: "/", cmd: body.Cmd, tty: body.Tty, stdin: body.AttachStdin, of: of.id, config: container.Config{Env: body.Env, WorkingDir: body.WorkingDir}, state: container.StateCreated, done: make(chan struct{}), cut: make(chan struct{}), started: make(chan struct{})}
	e.containers = append(e.containers, p)
	answer(w, 201, container.ExecCreateResponse{ID: p.id})
}

func (e *engine) attach(w http.ResponseWriter, r *http.Request, p *process) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, 500, err.Error())
		return
	}
	printing.Lock() // nothing is said before the client is known
	fmt.Fprint(rw, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	_ = rw.Flush()
	e.mu.Lock()
	p.client = conn
	e.mu.Unlock()
	printing.Unlock()
	go func() {
		select {
		case <-p.started:
		case <-p.done:
			return
		}
		if p.master != nil {
			_, _ = io.Copy(p.master, rw)
		} else if in, ok := p.run.Stdin.(*stdinPipe); ok {
			_, _ = io.Copy(in.w, rw)
			in.w.Close()
		}
	}()
}

// stdinPipe is the program's standard input.
type stdinPipe struct {
	io.Reader
	w io.WriteCloser
}

func (e *engine) start(w http.ResponseWriter, r *http.Request, p *process) {
	var body container.ExecStartRequest
	if p.of != "" {
		_ = json.NewDecoder(r.Body).Decode(&body)
	}
	if strings.HasPrefix(p.cmd[0], "nosuch") || strings.HasPrefix(p.cmd[0], "-") {
		if p.of != "" {
			p.code = 127
			e.attach(w, r, p)
			p.print(2, []byte(`exec: "`+p.cmd[0]+`": executable file not found in $PATH`+"\r\n"))
			p.client.Close()
			return
		}
		p.finish(e, 127)
		refuse(w, 400, `failed to start: exec: "`+p.cmd[0]+`": executable file not found in $PATH`)
		return
	}
	if strings.HasPrefix(p.cmd[0], "denied") {
		p.finish(e, 126)
		refuse(w, 400, `failed to start: exec: "`+p.cmd[0]+`": permission denied`)
		return
	}
	if p.of != "" && !body.Detach {
		e.attach(w, r, p)
	} else {
		w.WriteHeader(204)
	}
	e.launch(p)
}

func (e *engine) launch(p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p.run = exec.Command(p.cmd[0], p.cmd[1:]...)
	p.run.Env = append(os.Environ(), p.config.Env...)
	p.state = container.StateRunning
	var copied sync.WaitGroup
	if p.tty {
		master, err := pty.Start(p.run)
		if err != nil {
			panic(err)
		}
		p.master = master
		copied.Go(func() { p.copy(1, master) })
	} else {
		out, _ := p.run.StdoutPipe()
		errs, _ := p.run.StderrPipe()
		if p.stdin {
			r, w, _ := os.Pipe()
			p.run.Stdin = &stdinPipe{r, w}
		}
		if err := p.run.Start(); err != nil {
			panic(err)
		}
		copied.Go(func() { p.copy(1, out) })
		copied.Go(func() { p.copy(2, errs) })
	}
	close(p.started)
	go func() {
		copied.Wait()
		if in, ok := p.run.Stdin.(*stdinPipe); ok {
			in.w.Close() // or Wait would wait for more input
		}
		_ = p.run.Wait()
		ws := p.run.ProcessState.Sys().(syscall.WaitStatus)
		code := ws.ExitStatus()
		if ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		p.finish(e, code)
	}()
}

func (p *process) copy(stream byte, r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		p.print(stream, buf[:n])
		if err != nil {
			return
		}
	}
}

var printing sync.Mutex

func (p *process) print(stream byte, b []byte) {
	if len(b) == 0 {
		return
	}
	printing.Lock()
	defer printing.Unlock()
	if !p.tty {
		head := make([]byte, 8)
		head[0] = stream
		binary.BigEndian.PutUint32(head[4:], uint32(len(b)))
		b = append(head, b...)
	}
	p.log = append(p.log, b...)
	if p.client != nil {
		_, _ = p.client.Write(b)
	}
}

func (p *process) finish(e *engine, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p.code, p.state = code, container.StateExited
	if p.client != nil {
		p.client.Close()
	}
	if p.remove {
		e.containers = slices.DeleteFunc(e.containers, func(o *process) bool { return o == p })
	}
	close(p.done)
}

func (e *engine) wait(w http.ResponseWriter, p *process) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	_ = http.NewResponseController(w).Flush()
	e.mu.Lock()
	cut := p.cut
	e.mu.Unlock()
	select {
	case <-p.done:
	case <-cut:
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: int64(p.code)})
}

// sever ends every connection of a container, which runs on.
func (e *engine) sever(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.find(name)
	close(p.cut)
	p.cut = make(chan struct{})
	p.client.Close()
}

func (e *engine) running(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.find(name)
	return p != nil && p.state == container.StateRunning
}

// asked waits until a request has come.
func (e *engine) asked(t *testing.T, request string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		found := slices.Contains(e.requests, request)
		e.mu.Unlock()
		if found {
			return
		}
	}
	t.Fatalf("nobody asked %s", request)
}

func (e *engine) kill(w http.ResponseWriter, r *http.Request, p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.state != container.StateRunning {
		refuse(w, 409, "cannot kill container: "+p.name+": container "+p.id+" is not running")
		return
	}
	sig := syscall.SIGKILL
	if s := r.FormValue("signal"); s != "" {
		var err error
		if sig, err = signal.ParseSignal(s); err != nil {
			refuse(w, 400, err.Error())
			return
		}
	}
	if err := p.run.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		refuse(w, 500, err.Error())
		return
	}
	w.WriteHeader(204)
}

func (e *engine) removeContainer(w http.ResponseWriter, r *http.Request, p *process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.state == container.StateRunning && r.FormValue("force") != "1" {
		refuse(w, 409, "cannot remove container \""+p.name+"\": container is running")
		return
	}
	if p.run != nil && p.run.Process != nil {
		_ = p.run.Process.Kill()
	}
	e.containers = slices.DeleteFunc(e.containers, func(o *process) bool { return o == p })
	w.WriteHeader(204)
}
