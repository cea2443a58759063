/*
 * Builds a filter with libseccomp from lines on standard input, as runc does
 * by way of libseccomp-golang, and writes its BPF to standard output.
 *
 *	arch NUMBER                         an architecture (the native one is removed first)
 *	rule ACTION NAME [ARG OP A B]...    numbers as strtoull(3) reads them
 *
 * The first argument is the default action. A name that libseccomp does not
 * know is reported on standard error as "unknown NAME".
 */
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	char line[4096];
	scmp_filter_ctx ctx = argc == 2 ? seccomp_init(strtoull(argv[1], NULL, 0)) : NULL;
	if (!ctx)
		return 1;
	if (seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE))
		return 1;
	while (fgets(line, sizeof line, stdin)) {
		char *word = strtok(line, " \n");
		if (!word)
			continue;
		if (!strcmp(word, "arch")) {
			int r = seccomp_arch_add(ctx, strtoull(strtok(NULL, " \n"), NULL, 0));
			if (r && r != -EEXIST)
				return 2;
			continue;
		}
		uint32_t action = strtoull(strtok(NULL, " \n"), NULL, 0);
		char *name = strtok(NULL, " \n");
		int nr = seccomp_syscall_resolve_name(name);
		if (nr == __NR_SCMP_ERROR) {
			fprintf(stderr, "unknown %s\n", name);
			continue;
		}
		struct scmp_arg_cmp args[6];
		unsigned n = 0;
		char *arg;
		while (n < 6 && (arg = strtok(NULL, " \n"))) {
			args[n].arg = strtoull(arg, NULL, 0);
			args[n].op = strtoull(strtok(NULL, " \n"), NULL, 0);
			args[n].datum_a = strtoull(strtok(NULL, " \n"), NULL, 0);
			args[n].datum_b = strtoull(strtok(NULL, " \n"), NULL, 0);
			n++;
		}
		int r = seccomp_rule_add_array(ctx, action, nr, n, args);
		if (r && r != -EEXIST) {
			fprintf(stderr, "error %s: %d\n", name, r);
			return 3;
		}
	}
	return seccomp_export_bpf(ctx, 1) ? 4 : 0;
}
