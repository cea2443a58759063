//go:build ignore

/*
 * hezi-enter: puts an init into a user namespace that is there already. The
 * kernel lets in only a process that has one thread, and Go's programs have more.
 *
 * Called as  {"hezi-enter", FLAGS, PID}  with descriptors: 3 is the keeper's
 * socket, 4 is hezi-init, 5 is a pidfd of a process in the user namespace, 6,
 * if PID is "1", is one of a process in the pid namespace to enter, 7 is this
 * program. FLAGS are the namespaces to make, CLONE_NEW* in decimal.
 *
 * It becomes root there and forks as the keeper's child; its last word to the
 * keeper is 'P' and that child's pid, or 'X', what failed and the errno.
 *
 * No libc: see raw.h.
 */

#include "../hezi-tiny/raw.h"

enum { CALL(setns, 308, 268), CALL(unshare, 272, 97), CALL(setgroups, 116, 159), CALL(setresuid, 117, 147), CALL(setresgid, 119, 149),
	CALL(execveat, 322, 281), CALL(close, 3, 57) };

enum { CLONE_PARENT = 0x8000, CLONE_NEWUSER = 0x10000000, CLONE_NEWPID = 0x20000000, AT_EMPTY_PATH = 0x1000,
	PR_SET_DUMPABLE = 4 };

enum { SOCKET = 3, INIT = 4, USER = 5, PIDNS = 6, SELF = 7 };

/* tell sends the kind, a number and an errno. */
static void tell(char kind, unsigned number, unsigned err)
{
	char m[9];

	m[0] = kind;
	for (int i = 0; i < 4; i++) {
		m[1 + i] = number >> 8 * i;
		m[5 + i] = err >> 8 * i;
	}
	call(NR_write, SOCKET, (long)m, sizeof m, 0, 0);
}

/* Steps by number, as the keeper names them. */
static void must(unsigned step, long r)
{
	if (r < 0) {
		tell('X', step, -r);
		quit(1);
	}
}

__attribute__((noreturn, used)) void run(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	char **env = argv + argc + 1;
	char *init[] = { "hezi-init", 0 };
	long flags = 0;

	if (argc != 3)
		quit(125);
	for (char *p = argv[1]; *p >= '0' && *p <= '9'; p++)
		flags = 10 * flags + *p - '0';
	call(NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	must(1, call(NR_setns, USER, CLONE_NEWUSER, 0, 0, 0));
	must(2, call(NR_setgroups, 0, 0, 0, 0, 0));
	must(2, call(NR_setresgid, 0, 0, 0, 0, 0));
	must(2, call(NR_setresuid, 0, 0, 0, 0, 0));
	if (argv[2][0] == '1')
		must(3, call(NR_setns, PIDNS, CLONE_NEWPID, 0, 0, 0));
	must(4, call(NR_unshare, flags, 0, 0, 0, 0));
	long child = call(NR_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	must(5, child);
	if (child > 0) {
		tell('P', child, 0);
		quit(0);
	}
	for (int fd = USER; fd <= SELF; fd++)
		call(NR_close, fd, 0, 0, 0, 0);
	long r = call(NR_execveat, INIT, (long)"", (long)init, (long)env, AT_EMPTY_PATH);
	must(6, r);
	quit(1);
}
