#include "say.h"
#include <spawn.h>

extern char **environ;

static void wait_for(pid_t pid)
{
	int status;
	waitpid(pid, &status, 0);
	printf("status %x\n", status);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int s[2];
	char b[32] = {0};
	if (argc > 1) {
		/* The new program: what it inherited still works. */
		int fd = atoi(argv[2]);
		if (write(fd, argv[1], strlen(argv[1])) < 0)
			_exit(7);
		_exit(getenv("MARK") ? 3 : 4);
	}
	connected(s);
	char fd[8];
	sprintf(fd, "%d", s[0]);
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		if (write(s[0], "fork", 4) != 4)
			_exit(1);
		close(s[0]);
		_exit(5);
	}
	wait_for(pid);
	SAY(read(s[1], b, sizeof b));
	pid = vfork();
	if (pid == 0) {
		close(s[1]);
		dup2(s[0], 90);
		execl("/proc/self/exe", "procs", "vfork", "90", NULL);
		_exit(6);
	}
	wait_for(pid);
	SAY(read(s[1], b, sizeof b));
	char *args[] = {"procs", "spawn", fd, NULL};
	char *bare[] = {"MARK=1", NULL};
	SAY(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, args, bare));
	wait_for(pid);
	SAY(read(s[1], b, sizeof b));
	pid = fork();
	if (pid == 0) {
		args[1] = "execve";
		execve("/proc/self/exe", args, bare);
		_exit(6);
	}
	wait_for(pid);
	SAY(read(s[1], b, sizeof b));
	pid = fork();
	if (pid == 0) {
		args[1] = "execvp";
		execvp("/proc/self/exe", args);
		_exit(6);
	}
	wait_for(pid);
	SAY(read(s[1], b, sizeof b));
	SAY(execve("/nonexistent", args, environ));
	SAY(system("exit 3"));
	FILE *f = popen("echo popen", "r");
	printf("%s", fgets(b, sizeof b, f));
	SAY(pclose(f));
	SAY(close(s[0]));
	SAY(read(s[1], b, sizeof b));
	return 0;
}
