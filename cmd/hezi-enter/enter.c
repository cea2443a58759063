//go:build ignore

/*
 * hezi-enter: puts an init into a user namespace that is there already. The
 * kernel lets in only a process that has one thread, and Go's programs have more.
 *
 * Called as  {"hezi-enter", FLAGS, PID}  with descriptors: 3 is the keeper's
 * socket, 4 is hezi-init, 5 is a pidfd of a process in the user namespace, 6,
 * if PID is "1", is one of a process in the pid namespace to enter, 7 is this program. FLAGS are the
 * namespaces to make, CLONE_NEW* in decimal.
 *
 * It becomes root there and forks as the keeper's child; its last word to the
 * keeper is 'P' and that child's pid, or 'X', what failed and the errno.
 *
 * No libc: raw system calls for x86-64 and AArch64; see hezi-tiny.
 */

typedef unsigned long u64;

#if defined(__x86_64__)
enum { NR_write = 1, NR_exit = 231, NR_clone = 56, NR_setns = 308, NR_unshare = 272, NR_setgroups = 116,
	NR_setresuid = 117, NR_setresgid = 119, NR_execveat = 322, NR_close = 3, NR_prctl = 157 };

static long call(long n, long a, long b, long c, long d, long e)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
		: "rcx", "r11", "memory");
	return r;
}

__asm__(".globl _start\n_start:\n\txor %ebp,%ebp\n\tmov %rsp,%rdi\n\tand $-16,%rsp\n\tcall run\n\thlt\n");
#elif defined(__aarch64__)
enum { NR_write = 64, NR_exit = 94, NR_clone = 220, NR_setns = 268, NR_unshare = 97, NR_setgroups = 159,
	NR_setresuid = 147, NR_setresgid = 149, NR_execveat = 281, NR_close = 57, NR_prctl = 167 };

static long call(long n, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x29,#0\n\tmov x30,#0\n\tmov x0,sp\n\tbl run\n\tbrk #0\n");
#else
#error "hezi-enter knows x86-64 and AArch64 only"
#endif

/* Linux's numbers, the same on both architectures. */
enum { SIGCHLD = 17, CLONE_PARENT = 0x8000, CLONE_NEWUSER = 0x10000000, CLONE_NEWPID = 0x20000000, AT_EMPTY_PATH = 0x1000,
	PR_SET_DUMPABLE = 4 };

enum { SOCKET = 3, INIT = 4, USER = 5, PIDNS = 6, SELF = 7 };

__attribute__((noreturn)) static void quit(int code)
{
	for (;;)
		call(NR_exit, code, 0, 0, 0, 0);
}

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
