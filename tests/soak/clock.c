/* Loaded into an engine (LD_PRELOAD): the time of day runs CLOCK_FACTOR times as fast. The least retention is
 * an hour; so an hour passes in a minute. Timeouts that are kept as times of day pass as fast; what waits
 * for a span of time does not notice. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static int64_t factor = 1, began;

static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
  struct timespec now;
  real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  real(CLOCK_REALTIME, &now);
  began = now.tv_sec * 1000000000ll + now.tv_nsec;
  if (getenv("CLOCK_FACTOR")) factor = atoll(getenv("CLOCK_FACTOR"));
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  if (!real) begin();
  int done = real(clock, now);
  if (!done && clock == CLOCK_REALTIME) {
    int64_t shown = began + (now->tv_sec * 1000000000ll + now->tv_nsec - began) * factor;
    now->tv_sec = shown / 1000000000;
    now->tv_nsec = shown % 1000000000;
  }
  return done;
}
