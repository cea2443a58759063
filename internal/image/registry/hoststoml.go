package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/containerd/errdefs"
)

// capability is what a host may be asked for.
type capability uint8

const (
	canPull    capability = 1 << iota // manifests and blobs by digest
	canResolve                        // what a tag names now
	canPush
	canRefer // the list of what refers to a manifest

	canAll = canPull | canResolve | canPush | canRefer
)

func (c capability) names() (list []string) {
	for i, name := range []string{"pull", "resolve", "push", "referrers"} {
		if c&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// hostsFile is a hosts.toml (containerd's docs/hosts.md): the hosts in the
// order of the file, and the server that is asked after them.
type hostsFile struct {
	path   string
	hosts  []hostEntry
	server hostEntry // its host is "" if the file names none
}

// hostEntry is one host of a hosts.toml.
type hostEntry struct {
	scheme, host string
	root         string // the path of the API
	can          capability
	authorities  []string    // files in PEM
	client       [][2]string // files of certificate and key
	skipVerify   *bool
	header       http.Header
	dialTimeout  time.Duration // 0: the default
}

// The values of a hosts.toml check themselves, since their errors then have
// the line.
type (
	tomlCapabilities capability
	tomlFiles        []string
	tomlPairs        [][2]string
	tomlHeader       http.Header
	tomlTime         time.Duration
	tomlServer       hostEntry
)

func (c *tomlCapabilities) UnmarshalTOML(v any) error {
	list, err := texts(v)
	if err != nil {
		return err
	}
	for _, s := range list {
		switch strings.ToLower(s) {
		case "pull":
			*c |= tomlCapabilities(canPull)
		case "resolve":
			*c |= tomlCapabilities(canResolve)
		case "push":
			*c |= tomlCapabilities(canPush)
		case "referrers":
			*c |= tomlCapabilities(canRefer)
		default:
			return fmt.Errorf("unknown capability %q: pull, resolve, push and referrers are known", s)
		}
	}
	return nil
}

// texts reads a string or a list of strings.
func texts(v any) ([]string, error) {
	if s, ok := v.(string); ok {
		return []string{s}, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("a string or a list of strings is needed")
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, errors.New("a string or a list of strings is needed")
		}
	}
	return out, nil
}

func (f *tomlFiles) UnmarshalTOML(v any) (err error) {
	*f, err = texts(v)
	return err
}

// UnmarshalTOML reads one file with certificate and key, a list of such files,
// or a list of pairs of files.
func (p *tomlPairs) UnmarshalTOML(v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, e := range list {
		pair, err := texts(e)
		switch {
		case err != nil || len(pair) == 0 || len(pair) > 2:
			return errors.New("a file with certificate and key is needed, or a list of such files or of pairs [certificate, key]")
		case len(pair) == 1:
			pair = append(pair, pair[0])
		}
		*p = append(*p, [2]string{pair[0], pair[1]})
	}
	return nil
}

func (h *tomlHeader) UnmarshalTOML(v any) error {
	table, ok := v.(map[string]any)
	if !ok {
		return errors.New("a table of headers is needed")
	}
	*h = make(tomlHeader)
	for name, value := range table {
		list, err := texts(value)
		if err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
		if !validHeader(name, list) {
			return fmt.Errorf("header %q cannot be sent", name)
		}
		http.Header(*h)[http.CanonicalHeaderKey(name)] = list
	}
	return nil
}

func validHeader(name string, values []string) bool {
	token := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}
	bad := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool { return !token(r) }) &&
		!slices.ContainsFunc(values, func(v string) bool { return strings.ContainsFunc(v, bad) })
}

func (t *tomlTime) UnmarshalTOML(v any) error {
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return errors.New(`a time is needed, as in "10s"`)
	}
	*t = tomlTime(d)
	return nil
}

func (s *tomlServer) UnmarshalTOML(v any) error {
	text, ok := v.(string)
	if !ok {
		return errors.New("a URL is needed")
	}
	e, err := parseServer(text)
	*s = tomlServer(e)
	return err
}

// parseServer reads a host's URL; without a scheme it is https. root is the
// path as it stands there.
func parseServer(text string) (hostEntry, error) {
	full := text
	if !strings.HasPrefix(text, "http://") && !strings.HasPrefix(text, "https://") {
		if scheme, _, ok := strings.Cut(text, "://"); ok {
			return hostEntry{}, fmt.Errorf("scheme %q is not known: https:// or http:// is needed", scheme)
		}
		full = "https://" + text
	}
	u, err := url.Parse(full)
	switch {
	case err != nil:
		return hostEntry{}, errors.New("it is no URL")
	case u.User != nil:
		return hostEntry{}, errors.New("a URL without user and password is needed")
	case u.RawQuery != "" || u.Fragment != "":
		return hostEntry{}, errors.New("a URL without query and fragment is needed")
	}
	if err := checkHost(u.Host); err != nil {
		return hostEntry{}, err
	}
	return hostEntry{scheme: u.Scheme, host: u.Host, root: u.EscapedPath()}, nil
}

// tomlHost is what can stand in a table [host."…"], and at the top for server.
type tomlHost struct {
	Capabilities tomlCapabilities `toml:"capabilities"`
	CA           tomlFiles        `toml:"ca"`
	Client       tomlPairs        `toml:"client"`
	SkipVerify   *bool            `toml:"skip_verify"`
	Header       tomlHeader       `toml:"header"`
	OverridePath bool             `toml:"override_path"`
	DialTimeout  tomlTime         `toml:"dial_timeout"`
}

// complete makes an entry; files are relative to dir.
func (t tomlHost) complete(e hostEntry, dir string) hostEntry {
	absolute := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	if e.root != "" {
		e.root = path.Clean(e.root)
		if e.root == "/" {
			e.root = ""
		}
	}
	if !t.OverridePath && !strings.HasSuffix(e.root, "/v2") {
		e.root += "/v2"
	}
	if e.can = capability(t.Capabilities); e.can == 0 {
		e.can = canAll
	}
	for _, f := range t.CA {
		e.authorities = append(e.authorities, absolute(f))
	}
	for _, p := range t.Client {
		e.client = append(e.client, [2]string{absolute(p[0]), absolute(p[1])})
	}
	e.skipVerify, e.header, e.dialTimeout = t.SkipVerify, http.Header(t.Header), time.Duration(t.DialTimeout)
	return e
}

const maxHosts = 1 << 20 // bytes of a hosts.toml

// readHosts reads the hosts.toml of a folder; nil if there is none.
func readHosts(dir string) (*hostsFile, error) {
	name := filepath.Join(dir, "hosts.toml")
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the registry's configuration: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err != nil {
		return nil, fmt.Errorf("read the registry's configuration: %w", err)
	}
	if len(src) > maxHosts {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s has more than %d bytes: that is no configuration", name, maxHosts))
	}
	h, err := parseHosts(string(src), dir)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(name + ": " + err.Error())
	}
	h.path = name
	return h, nil
}

// parseHosts reads a hosts.toml; dir is where its files are.
func parseHosts(src, dir string) (*hostsFile, error) {
	var file struct {
		tomlHost
		Server tomlServer          `toml:"server"`
		Host   map[string]tomlHost `toml:"host"`
	}
	md, err := toml.Decode(src, &file)
	if err != nil {
		return nil, lineError(err)
	}
	for _, key := range md.Undecoded() {
		// The keys of what reads itself count as not decoded.
		if i := slices.Index(key, "header"); i == 0 || i == 2 && key[0] == "host" {
			continue
		}
		return nil, unknownKey(src, key)
	}
	out := &hostsFile{server: file.complete(hostEntry(file.Server), dir)}
	seen := make(map[string]bool)
	for _, key := range md.Keys() { // in the order of the file
		if len(key) < 2 || key[0] != "host" || seen[key[1]] {
			continue
		}
		seen[key[1]] = true
		e, err := parseServer(key[1])
		if err != nil {
			return nil, fmt.Errorf("%s[host.%q]: %w", lineOf(src, key[:2]), key[1], err)
		}
		out.hosts = append(out.hosts, file.Host[key[1]].complete(e, dir))
	}
	return out, nil
}

// lineError says where an error is.
func lineError(err error) error {
	var p toml.ParseError
	if !errors.As(err, &p) {
		return errors.New(strings.TrimPrefix(err.Error(), "toml: "))
	}
	text := p.Message
	if p.LastKey != "" {
		text = fmt.Sprintf("%s: %s", p.LastKey, text)
	}
	return fmt.Errorf("line %d: %s", p.Position.Line, text)
}

func unknownKey(src string, key toml.Key) error {
	return fmt.Errorf("%sunknown key %q: server, host, capabilities, ca, client, skip_verify, override_path, header and dial_timeout are known", lineOf(src, key), key)
}

// refuser is a value whose reading fails, as errors have the line.
type refuser struct{}

func (*refuser) UnmarshalTOML(any) error { return errors.New("") }

// lineOf is "line N: " of a key that is there.
func lineOf(src string, key toml.Key) string {
	var table map[string]toml.Primitive
	md, err := toml.Decode(src, &table)
	for i, part := range key {
		value, ok := table[part]
		if err != nil || !ok {
			return ""
		}
		if i < len(key)-1 {
			table = nil
			err = md.PrimitiveDecode(value, &table)
			continue
		}
		var p toml.ParseError
		if errors.As(md.PrimitiveDecode(value, &refuser{}), &p) && p.Position.Line > 0 {
			return fmt.Sprintf("line %d: ", p.Position.Line)
		}
	}
	return ""
}

// defaultDir is the folder for registries that have none.
const defaultDir = "_default"

// hostDir is the folder of a host: HOST_PORT_ or HOST:PORT in the first of the
// directories that has it, else _default in the first that has that; "" is
// none. host comes from references and redirects.
func hostDir(certDirs []string, host string) (string, error) {
	if host == "" || host == "." || host == ".." || strings.ContainsAny(host, "/\x00") {
		return "", nil
	}
	names := []string{host}
	if i := strings.LastIndexByte(host, ':'); i > 0 && !strings.HasSuffix(host, "]") {
		names = []string{host[:i] + "_" + host[i+1:] + "_", host}
	}
	for _, list := range [][]string{names, {defaultDir}} {
		for _, dir := range certDirs {
			for _, name := range list {
				p := filepath.Join(dir, name)
				st, err := os.Stat(p)
				switch {
				case err == nil && st.IsDir():
					return p, nil
				case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid):
					return "", fmt.Errorf("read the configuration of registry %s: %w", host, err)
				}
			}
		}
	}
	return "", nil
}

// CheckHosts reads every hosts.toml of the directories and says what is wrong
// with them, all at once. nil is DefaultCertDirs.
func CheckHosts(certDirs []string) error {
	if certDirs == nil {
		certDirs = DefaultCertDirs()
	}
	var errs []error
	for _, dir := range certDirs {
		list, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("read the registries' configuration: %w", err))
		}
		for _, e := range list {
			if e.IsDir() || e.Type()&fs.ModeSymlink != 0 {
				if _, err := readHosts(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, syscall.ENOTDIR) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}
