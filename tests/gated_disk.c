/* A disk that hangs: while the file $GATE is there, nothing gets written out. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_the_gate(void) {
    const char *gate = getenv("GATE");
    while (gate && access(gate, F_OK) == 0)
        usleep(20000);
}

int fsync(int file) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_for_the_gate();
    return next(file);
}

int fdatasync(int file) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_for_the_gate();
    return next(file);
}
