/* glibc has gettid() since 2.30, and Rust's standard library asks for it. packaging/build links this into what has to run with an older
   one. */
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

__attribute__((visibility("hidden"))) pid_t gettid(void) { return (pid_t)syscall(SYS_gettid); }
