package initproc

import (
	"strconv"
	"strings"
	"unsafe"

	"hezi/internal/box/plan"

	"golang.org/x/sys/unix"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// prepareProgram does all that start and join share, with the container's root
// as root: identity, terminal, lookup, and the tape that ends in execve.
func (s *session) prepareProgram() error {
	p := &s.plan.Process
	if !s.plan.Join {
		if err := s.processAttributes(); err != nil {
			return err
		}
	}
	if s.plan.UserFD < 0 { // else in its user namespace
		if err := s.keyring(); err != nil {
			return err
		}
	}
	who, err := identify(p)
	if err == nil {
		err = inside(&s.plan, who)
	}
	if err != nil {
		return err
	}
	s.who = who
	env := environment(p, who)
	stdio, err := s.stdio(who)
	if err != nil {
		return err
	}
	if err := enterCwd(p.Cwd); err != nil {
		return err
	}
	file, err := lookPath(p.Args[0], env)
	if err != nil {
		return err
	}
	s.cut(who, stdio, file, env)
	return nil
}

func (s *session) keyring() error {
	// A session keyring of its own keeps the host's keys out of reach.
	// Kernels without keyrings, and full quotas, are no reason to fail.
	name, err := unix.BytePtrFromString("_ses." + s.plan.ID)
	if err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(unsafe.Pointer(name)), 0, 0, 0, 0)
	if errno != 0 && errno != unix.ENOSYS && errno != unix.EDQUOT && errno != unix.EPERM {
		return fail("exec", "keyring", errno, "cannot make a session keyring")
	}
	return nil
}

// keyring is the same, once in the user namespace.
func (t *tape) keyring(id string) {
	name := pointers([]string{"_ses." + id})
	c := t.add("exec", "keyring", "cannot make a session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(unsafe.Pointer(name[0])))
	c.lax, c.keep = true, name
}

// processAttributes are those that only /proc/self sets.
func (s *session) processAttributes() error {
	p := &s.plan.Process
	if p.HasOOMScoreAdj {
		value := strconv.Itoa(p.OOMScoreAdj)
		if err := s.writeProc("self/oom_score_adj", value); err != nil {
			return fail(stepLimit, "oom_score_adj", err, "cannot set the OOM score adjustment to "+value+" (lowering it needs CAP_SYS_RESOURCE)")
		}
	}
	if p.AppArmor != "" && p.AppArmor != "unconfined" {
		err := s.writeProc("self/attr/apparmor/exec", "exec "+p.AppArmor)
		if err == unix.ENOENT && unix.Faccessat(s.proc, "self/attr/apparmor", unix.F_OK, 0) != nil { // before Linux 5.1
			err = s.writeProc("self/attr/exec", "exec "+p.AppArmor)
		}
		if err != nil {
			return fail("AppArmor profile", p.AppArmor, err, "unable to apply apparmor profile "+strconv.Quote(p.AppArmor)+" (is it loaded? apparmor_parser -r FILE loads one)")
		}
	}
	if p.SELinux != "" {
		err := s.writeProc("self/attr/exec", p.SELinux)
		if err == nil { // that of the session's keyring, until exec clears it
			err = s.writeProc("self/attr/keycreate", p.SELinux)
		}
		if err != nil {
			return fail("exec", p.SELinux, err, "cannot use the SELinux label "+strconv.Quote(p.SELinux)+" (is SELinux enabled?)")
		}
	}
	return nil
}

const stepLimit = "resource limit"

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

func environment(p *plan.Process, who *identity) []string {
	env := p.Env
	if lookEnv(env, "HOME") == "" {
		kept := make([]string, 0, len(env)+1)
		for _, kv := range env {
			if !strings.HasPrefix(kv, "HOME=") {
				kept = append(kept, kv)
			}
		}
		env = append(kept, "HOME="+who.home)
	}
	return env
}

func lookEnv(env []string, key string) string {
	value := ""
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok && k == key {
			value = v
		}
	}
	return value
}

// enterCwd goes to the working directory and proves that it is inside: a
// leaked descriptor of the host must not become it (CVE-2024-21626).
func enterCwd(cwd string) error {
	if cwd == "" {
		cwd = "/"
	}
	if err := unix.Chdir(cwd); err != nil {
		return fail("working directory", cwd, nil, "chdir to cwd ("+strconv.Quote(cwd)+") set in config.json failed: "+err.Error()) // Docker's words
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err != nil || n < 1 || buf[0] != '/' {
		return fail("working directory", cwd, err, "the working directory "+strconv.Quote(cwd)+" is outside of the container's file system")
	}
	return nil
}

// lookPath finds the program as execvp(3) does, in Docker's words.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", notFound(name, err)
		}
		return name, nil
	}
	search := lookEnv(env, "PATH")
	if search == "" {
		search = defaultPath
	}
	var denied error
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		err := executable(dir + "/" + name)
		if err == nil {
			return dir + "/" + name, nil
		}
		if err == unix.EACCES {
			denied = err
		}
	}
	if denied != nil {
		return "", notFound(name, denied)
	}
	return "", &plan.Error{Step: "exec", Subject: name, ExitCode: 127,
		Message: "exec: " + strconv.Quote(name) + ": executable file not found in $PATH"}
}

func executable(name string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	if st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}

func notFound(name string, err error) error {
	e := &plan.Error{Step: "exec", Subject: name, ExitCode: 126}
	e.Errno = int(err.(unix.Errno))
	switch err {
	case unix.EISDIR, unix.EACCES:
		e.Message = "exec: " + strconv.Quote(name) + ": " + err.Error()
	default:
		e.Message = "exec: " + strconv.Quote(name) + ": stat " + name + ": " + err.Error()
		if err == unix.ENOENT || err == unix.ENOTDIR {
			e.ExitCode = 127
		}
	}
	return e
}
