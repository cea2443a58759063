//go:build ignore

/*
 * hezi-tiny: the first process of a container started with --init.
 *
 * Called as  execveat(fd, "", {"hezi-init", PATH, ARGV0, ARGS...}, env):
 * PATH is the program's path, found by the caller; without a slash it is
 * searched in $PATH here, for other OCI runtimes, which cannot. ARGV0 is what the program gets as argv[0], ARGS are the rest of its argv.
 *
 * It starts the program in a process group of its own, in the terminal's
 * foreground when standard input is a terminal, forwards every signal that
 * can be forwarded, reaps all orphans, and exits as the program did: with its
 * code, or 128+n when signal n ended it. When the program cannot be executed
 * it exits with 127 (no such file) or 126. 125 is a failure of its own.
 *
 * The go:build line keeps this file out of Go's packages; `make embedded`
 * compiles it. No libc: see raw.h.
 */

#include "raw.h"

enum { CALL(ioctl, 16, 29), CALL(kill, 62, 129), CALL(setpgid, 109, 154), CALL(getpid, 39, 172), CALL(execve, 59, 221),
	CALL(wait4, 61, 260), CALL(sigprocmask, 14, 135), CALL(sigtimedwait, 128, 137) };

enum { SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGSEGV = 11,
	SIGTTIN = 21, SIGTTOU = 22, SIGSYS = 31,
	SIG_SETMASK = 2, WNOHANG = 1, ENOENT = 2, EINTR = 4, EACCES = 13, ENOTDIR = 20, TIOCSPGRP = 0x5410, PR_SET_CHILD_SUBREAPER = 36 };

#define BIT(n) (1UL << ((n) - 1))

static void say(const char *s)
{
	long n = 0;
	while (s[n]) {
		n++;
		__asm__ volatile(""); /* or gcc makes a call of strlen of this loop */
	}
	call(NR_write, 2, (long)s, n, 0, 0);
}

static const char *variable(const char *name, char **env)
{
	for (; *env; env++) {
		long n = 0;
		while (name[n] && (*env)[n] == name[n])
			n++;
		if (!name[n])
			return *env + n;
	}
	return "";
}

/* search executes name from the directories of PATH, as execvp(3) does. */
static long search(const char *name, char **argv, char **env)
{
	static char path[4096];
	const char *dir = variable("PATH=", env);
	long worst = -ENOENT;

	for (;;) {
		unsigned long n = 0, i = 0;
		while (dir[n] && dir[n] != ':')
			n++;
		for (; i < n && i < sizeof path - 1; i++)
			((volatile char *)path)[i] = dir[i];
		if (!n)
			((volatile char *)path)[i++] = '.';
		if (i < sizeof path - 1)
			((volatile char *)path)[i++] = '/';
		const char *c = name;
		while (*c && i < sizeof path - 1)
			((volatile char *)path)[i++] = *c++;
		if (!*c) {
			((volatile char *)path)[i] = 0;
			long r = call(NR_execve, (long)path, (long)argv, (long)env, 0, 0);
			if (r == -EACCES)
				worst = r;
			else if (r != -ENOENT && r != -ENOTDIR)
				return r;
		}
		if (!dir[n])
			return worst;
		dir += n + 1;
	}
}

static int plain(const char *s)
{
	for (; *s; s++)
		if (*s == '/')
			return 0;
	return 1;
}

static void program(char **argv, char **env, u64 *mask)
{
	int pid = call(NR_getpid, 0, 0, 0, 0, 0);

	/* TTOU is still blocked, so that taking the foreground cannot stop us. */
	call(NR_setpgid, 0, 0, 0, 0, 0);
	call(NR_ioctl, 0, TIOCSPGRP, (long)&pid, 0, 0); /* fails harmlessly without a terminal */
	call(NR_sigprocmask, SIG_SETMASK, (long)mask, 0, 8, 0);
	long r = plain(argv[1]) ? search(argv[1], &argv[2], env) : call(NR_execve, (long)argv[1], (long)&argv[2], (long)env, 0, 0);
	say("hezi-init: cannot execute ");
	say(argv[1]);
	say(r == -ENOENT ? ": no such file, or its interpreter is missing\n" : ": not an executable that this machine can run, or no permission\n");
	quit(r == -ENOENT || r == -ENOTDIR ? 127 : 126);
}

/* reap collects all dead children; ends this process when child is among them. */
static void reap(long child)
{
	for (;;) {
		int status = 0;
		long pid = call(NR_wait4, -1, (long)&status, WNOHANG, 0, 0);
		if (pid == -EINTR)
			continue;
		if (pid <= 0)
			return;
		if (pid == child)
			quit(status & 0x7f ? 128 + (status & 0x7f) : (status >> 8) & 0xff);
	}
}

__attribute__((noreturn, used)) void run(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	char **env = argv + argc + 1;
	/* Faults of our own must not be held back. */
	u64 mask, block = ~(BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGABRT) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGSEGV) | BIT(SIGSYS));

	if (argc < 3) {
		say("usage: hezi-init PATH ARGV0 [ARG...]\n");
		quit(125);
	}
	call(NR_sigprocmask, SIG_SETMASK, (long)&block, (long)&mask, 8, 0);
	call(NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* for --pid=host, where this is not process 1 */
	long child = call(NR_clone, SIGCHLD, 0, 0, 0, 0);
	if (child < 0) {
		say("hezi-init: cannot start a process: the limit of processes is reached, or memory is short\n");
		quit(125);
	}
	if (child == 0)
		program(argv, env, &mask);
	for (;;) {
		long sig = call(NR_sigtimedwait, (long)&block, 0, 0, 8, 0);
		if (sig == SIGCHLD)
			reap(child);
		else if (sig > 0 && sig != SIGTTIN && sig != SIGTTOU)
			call(NR_kill, child, sig, 0, 0, 0);
	}
}
