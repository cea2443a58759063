//go:build ignore

/*
 * What the programs without a libc share: their entry, which calls run with the
 * stack as the kernel made it, and raw system calls, for x86-64 and AArch64.
 * CALL(name, x86-64's number, AArch64's) gives one a name.
 */

typedef unsigned long u64;

#if defined(__x86_64__)
#define CALL(name, x86_64, aarch64) NR_##name = x86_64

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
#define CALL(name, x86_64, aarch64) NR_##name = aarch64

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
#error "these programs know x86-64 and AArch64 only"
#endif

enum { CALL(write, 1, 64), CALL(exit_group, 231, 94), CALL(clone, 56, 220), CALL(prctl, 157, 167) };

enum { SIGCHLD = 17 }; /* the same on both, as are all numbers but those of system calls */

__attribute__((noreturn)) static void quit(int code)
{
	for (;;)
		call(NR_exit_group, code, 0, 0, 0, 0);
}
