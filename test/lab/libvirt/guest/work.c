#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "block.h"
#include "guest.h"

/* What the block must hold now; 0 when that is not known. */
static int expected(struct disk *disk, uint32_t block, uint32_t *words) {
  uint32_t seq = disk->last[block];
  if (seq == 0 && !disk->pattern) return 0;
  if (seq == 0 && is_hole(block))
    memset(words, 0, BLOCK);
  else
    fill_block(words, disk->tag, block, seq);
  return 1;
}

static int fd;
static uint32_t *buffer, *wanted;
static uint32_t random_state;

static uint32_t random_below(uint32_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state % n;
}

static int64_t begun; /* of the request under way, ns */

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Between these two a request is under way. */
static void begin(void) { begun = now_ns(); }
static void end(struct disk *disk) {
  uint32_t ms = (uint32_t)((now_ns() - begun) / 1000000);
  if (ms > disk->slowest_ms) disk->slowest_ms = ms;
}

static void write_run(struct disk *disk, uint32_t block, uint32_t count) {
  uint32_t seq = ++disk->seq;
  for (uint32_t i = 0; i < count; i++) fill_block(buffer + i * WORDS, disk->tag, block + i, seq);
  begin();
  ssize_t n = pwrite(fd, buffer, count * BLOCK, (off_t)block * BLOCK);
  end(disk);
  if (n != (ssize_t)count * BLOCK) {
    disk->errors++;
    say("verify error %s block %u: write of %u blocks: %s", disk->name, block, count, n < 0 ? strerror(errno) : "short");
    return;
  }
  for (uint32_t i = 0; i < count; i++) disk->last[block + i] = seq;
  disk->writes++;
}

static void report_mismatch(struct disk *disk, uint32_t block, const uint32_t *found) {
  disk->errors++;
  int blank = 1;
  for (int i = 0; i < WORDS && blank; i++) blank = found[i] == 0;
  if (blank)
    say("verify error %s block %u: wanted seq %u, found zeros", disk->name, block, disk->last[block]);
  else
    say("verify error %s block %u: wanted seq %u, found tag %08x block %u seq %u, %s", disk->name, block,
        disk->last[block], found[2], found[3], found[4], found[5] == checksum(found) ? "whole" : "torn");
}

static void verify_run(struct disk *disk, uint32_t block, uint32_t count) {
  if (block + count > disk->blocks) count = disk->blocks - block;
  begin();
  ssize_t n = pread(fd, buffer, count * BLOCK, (off_t)block * BLOCK);
  end(disk);
  if (n != (ssize_t)count * BLOCK) {
    disk->errors++;
    say("verify error %s block %u: read of %u blocks: %s", disk->name, block, count, n < 0 ? strerror(errno) : "short");
    return;
  }
  for (uint32_t i = 0; i < count; i++)
    if (expected(disk, block + i, wanted) && memcmp(buffer + i * WORDS, wanted, BLOCK) != 0)
      report_mismatch(disk, block + i, buffer + i * WORDS);
  disk->reads++;
}

/* A place of the bounded set: `spread` places at equal distances over all but the first blocks. */
static uint32_t far_block(struct disk *disk) {
  uint32_t room = disk->blocks - FIRST_BLOCKS - MAX_RUN;
  uint32_t places = room < (uint32_t)spread ? room : (uint32_t)spread;
  return FIRST_BLOCKS + random_below(places) * (room / places);
}

static void step(struct disk *disk, uint32_t n) {
  uint32_t first = 1 + n % (FIRST_BLOCKS - 1), far = far_block(disk), run = 1 + random_below(4);
  if (disk->mode == WRITE_ONLY) {
    write_run(disk, n % FIRST_BLOCKS, 1);
    write_run(disk, far, run);
  } else {
    write_run(disk, 0, 1);
    verify_run(disk, 0, 1);
    write_run(disk, first, 1);
    verify_run(disk, first, 1);
    write_run(disk, far, run);
    verify_run(disk, far, run);
    verify_run(disk, 0, FIRST_BLOCKS);
    verify_run(disk, far_block(disk), 1 + random_below(MAX_RUN));
    if (disk->pattern) verify_run(disk, random_below(disk->blocks), 1 + random_below(MAX_RUN));
  }
  if (n % 16 == 15) {
    begin();
    int failed = fdatasync(fd);
    end(disk);
    if (failed == 0) return;
    disk->errors++;
    say("verify error %s: flush: %s", disk->name, strerror(errno));
  }
}

void work(struct disk *disk) {
  char path[32];
  snprintf(path, sizeof path, "/dev/%s", disk->name);
  fd = disk->mode == IDLE ? -1 : open(path, O_RDWR | O_DIRECT);
  if (disk->mode != IDLE && fd < 0) {
    disk->errors++;
    say("verify error %s: open: %s", disk->name, strerror(errno));
  }
  buffer = shared_memory(MAX_RUN * BLOCK);
  wanted = shared_memory(BLOCK);
  random_state = disk->tag | 1;
  for (uint32_t n = 0;; n++) {
    if (shared->order == STOP) {
      if (!disk->resting && fd >= 0 && fsync(fd) != 0) {
        disk->errors++;
        say("verify error %s: last flush: %s", disk->name, strerror(errno));
      }
      disk->resting = 1;
    } else {
      disk->resting = 0;
      if (fd >= 0) step(disk, n);
    }
    sleep_ms(pause_ms);
  }
}
