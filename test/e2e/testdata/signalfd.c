/* A first process that has no handler: it blocks its stop signal and reads it
 * from a descriptor, in a thread's stead. */
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

int main(void)
{
	struct signalfd_siginfo info;
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, 0);
	puts("ready");
	fflush(stdout);
	return read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGTERM ? 6 : 1;
}
