/* What the parent (init.c) and its children (work.c), one a disk, have in common. */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_RUN 16
#define MAX_DISKS 8
#define FIRST_BLOCKS 8

enum mode { IDLE, REWRITE, WRITE_ONLY };
enum order { GO, STOP };

/* What parent and child share about one disk. */
struct disk {
  char name[8];
  enum mode mode;
  uint32_t tag;
  int pattern;
  uint64_t blocks;
  uint32_t *last; /* by block: sequence number of its last write, 0: never written */
  volatile uint32_t seq;
  volatile uint32_t writes, reads, errors;
  volatile uint32_t slowest_ms; /* the longest that a request took since the last beat */
  volatile int resting;
  pid_t worker; /* the child */
};

struct shared {
  volatile enum order order;
  struct disk disks[MAX_DISKS];
};

extern struct shared *shared;
extern int pause_ms; /* between two steps */
extern int spread;   /* places to write to besides the first blocks */

/* Prints `xnbd: ` and a line to the console, in one write. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

void sleep_ms(int ms);

/* Zeroed, and seen by all processes. */
void *shared_memory(size_t size);

/* Works on a disk as its mode says, for ever. */
void work(struct disk *disk) __attribute__((noreturn));

#endif
