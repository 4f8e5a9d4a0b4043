/*
 * The guest of the lab: pid 1 of a virtual machine that does nothing but write to its disks and read them back.
 *
 * For each disk that the kernel command line names (`xnbd.vda=MODE:TAG[:pattern]`) one child process works with
 * O_DIRECT in blocks of 4 KiB. What a block holds follows from the tag of its disk, its number and a sequence
 * number that grows with every write, so any block that is read can be checked in full:
 *
 *   rewrite     rewrites blocks 0 to 7 (block 0 at every step) and a bounded set of others, spread over the disk;
 *               reads each back at once and others later. With `pattern`, blocks never written are checked too:
 *               the host has filled the disk with the blocks of sequence number 0 (and holes).
 *   write-only  writes the same, reads nothing.
 *   idle        touches nothing.
 *
 * The parent prints to ttyS0 and takes commands from ttyS1. Every line is one write and begins with `xnbd: `.
 *
 *   stop ID      the children finish their step, flush and rest; then, disk by disk, the last sequence number of every
 *                block ever written is printed. From these the host knows what the image must hold, byte by byte.
 *   go ID        work goes on.
 *   poweroff ID  the same as stop, and then the machine is switched off.
 *   reboot ID    the same as stop, and then the machine boots anew.
 *   freeze ID    the children stop where they are, whatever they wait for (what a lost interrupt looks like).
 *   panic ID     the kernel panics.
 *
 * The ID makes a command that arrives twice harmless. The children are in work.c, the content of a block in block.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "block.h"
#include "guest.h"

#define BEAT_MS 500

struct shared *shared;
static int disk_count;
static int console = 1;
int pause_ms = 20;
int spread = 512;

void say(const char *format, ...) {
  char line[512];
  int at = snprintf(line, sizeof line, "xnbd: ");
  va_list args;
  va_start(args, format);
  at += vsnprintf(line + at, sizeof line - at - 1, format, args);
  va_end(args);
  if (at > (int)sizeof line - 2) at = sizeof line - 2;
  line[at++] = '\n';
  for (int done = 0; done < at;) {
    ssize_t n = write(console, line + done, at - done);
    if (n <= 0) return;
    done += n;
  }
}

void sleep_ms(int ms) {
  struct timespec t = {ms / 1000, (ms % 1000) * 1000000L};
  nanosleep(&t, NULL);
}

void *shared_memory(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    say("fatal: no memory for %zu bytes", size);
    for (;;) pause();
  }
  return memory;
}

static void dump(struct disk *disk) {
  uint32_t entries = 0, sum = 0x811c9dc5U;
  char line[256];
  int at = 0, in_line = 0;
  say("dump %s tag=%08x blocks=%llu errors=%u", disk->name, disk->tag, (unsigned long long)disk->blocks, disk->errors);
  for (uint32_t block = 0; block < disk->blocks; block++) {
    uint32_t seq = disk->last[block];
    if (seq == 0) continue;
    entries++;
    sum = (sum ^ block) * 0x01000193U;
    sum = (sum ^ seq) * 0x01000193U;
    at += snprintf(line + at, sizeof line - at, " %x:%x", block, seq);
    if (++in_line == 12) {
      say("w %s%s", disk->name, line);
      at = in_line = 0;
    }
  }
  if (in_line) say("w %s%s", disk->name, line);
  say("end %s entries=%u sum=%08x", disk->name, entries, sum);
}

static void stop_all(void) {
  shared->order = STOP;
  for (int i = 0; i < disk_count; i++)
    while (!shared->disks[i].resting) sleep_ms(10);
  for (int i = 0; i < disk_count; i++) dump(&shared->disks[i]);
}

/* Not before every child is at work again: a stop that follows at once must not take the old rest for the new one. */
static void go_all(void) {
  shared->order = GO;
  for (int i = 0; i < disk_count; i++)
    while (shared->disks[i].resting) sleep_ms(10);
}

static void freeze(void) {
  for (int i = 0; i < disk_count; i++) kill(shared->disks[i].worker, SIGSTOP);
}

static void panic(void) {
  tcdrain(console);
  int trigger = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
  if (write(trigger, "c", 1) != 1) say("fatal: no panic: %s", strerror(errno));
}

/* No child ever ends by itself: something broke it. */
static void mourn(void) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    for (int i = 0; i < disk_count; i++)
      if (shared->disks[i].worker == pid)
        say("crashed: the process that works on %s, by signal %d", shared->disks[i].name,
            WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void obey(char *line) {
  static char last_id[16];
  char verb[16], id[16];
  if (sscanf(line, "%15s %15s", verb, id) != 2 || strcmp(id, last_id) == 0) return;
  strcpy(last_id, id);
  if (strcmp(verb, "go") == 0) {
    go_all();
  } else if (strcmp(verb, "stop") == 0) {
    stop_all();
  } else if (strcmp(verb, "poweroff") == 0 || strcmp(verb, "reboot") == 0) {
    stop_all();
    say("done %s %s", verb, id);
    tcdrain(console);
    reboot(strcmp(verb, "reboot") == 0 ? RB_AUTOBOOT : RB_POWER_OFF);
  } else if (strcmp(verb, "freeze") == 0) {
    freeze();
  } else if (strcmp(verb, "panic") == 0) {
    say("done %s %s", verb, id);
    panic();
    return;
  } else {
    say("unknown command %s", verb);
    return;
  }
  say("done %s %s", verb, id);
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void beat(void) {
  static uint32_t number;
  char line[400];
  int at = snprintf(line, sizeof line, "beat %u", ++number);
  for (int i = 0; i < disk_count; i++) {
    struct disk *disk = &shared->disks[i];
    uint32_t slowest = __atomic_exchange_n(&disk->slowest_ms, 0, __ATOMIC_RELAXED);
    at += snprintf(line + at, sizeof line - at, " %s:%u:%u:%u:%u", disk->name, disk->writes, disk->reads, disk->errors,
                   slowest);
  }
  say("%s", line);
}

static void listen_and_beat(int commands) {
  char line[128];
  size_t length = 0;
  int64_t next = now_ms();
  for (;;) {
    int64_t wait = next - now_ms();
    struct pollfd p = {commands, POLLIN, 0};
    if (wait > 0 && poll(&p, 1, (int)wait) == 1) {
      char c;
      if (read(commands, &c, 1) != 1) {
        sleep_ms(100);
      } else if (c == '\n') {
        line[length] = 0;
        length = 0;
        obey(line);
      } else if (length < sizeof line - 1) {
        line[length++] = c;
      }
    } else if (wait <= 0) {
      mourn();
      beat();
      next = now_ms() + BEAT_MS;
    }
  }
}

static int open_serial(const char *path, int flags) {
  int serial = open(path, flags | O_NOCTTY);
  struct termios t;
  if (serial >= 0 && tcgetattr(serial, &t) == 0) {
    cfmakeraw(&t);
    t.c_cflag |= CLOCAL;
    tcsetattr(serial, TCSANOW, &t);
  }
  return serial;
}

static void load_modules(void) {
  for (int i = 0;; i++) {
    char path[32];
    snprintf(path, sizeof path, "/modules/%d.ko", i);
    int module = open(path, O_RDONLY | O_CLOEXEC);
    if (module < 0) return;
    if (syscall(SYS_finit_module, module, "", 0) != 0 && errno != EEXIST) say("fatal: %s: %s", path, strerror(errno));
    close(module);
  }
}

static uint64_t size_of(const char *name) {
  char path[32];
  uint64_t bytes = 0;
  snprintf(path, sizeof path, "/dev/%s", name);
  for (int tries = 0; tries < 200; tries++) {
    int device = open(path, O_RDONLY | O_CLOEXEC);
    if (device >= 0) {
      ioctl(device, BLKGETSIZE64, &bytes);
      close(device);
      if (bytes) return bytes;
    }
    sleep_ms(50);
  }
  say("fatal: %s does not appear", path);
  return 0;
}

static void add_disk(const char *name, char *value) {
  struct disk *disk = &shared->disks[disk_count];
  char *tag = strchr(value, ':'), *option;
  if (disk_count == MAX_DISKS || !tag || strlen(name) >= sizeof disk->name) {
    say("fatal: bad argument xnbd.%s=%s", name, value);
    return;
  }
  *tag++ = 0;
  strcpy(disk->name, name);
  disk->mode = strcmp(value, "rewrite") == 0 ? REWRITE : strcmp(value, "write-only") == 0 ? WRITE_ONLY : IDLE;
  disk->tag = strtoul(tag, &option, 16);
  disk->pattern = strcmp(option, ":pattern") == 0;
  disk->blocks = size_of(name) / BLOCK;
  if (disk->blocks < FIRST_BLOCKS + 2 * MAX_RUN) disk->mode = IDLE;
  disk->last = shared_memory((disk->blocks + 1) * sizeof *disk->last);
  disk_count++;
}

static void read_command_line(void) {
  static char line[4096];
  int file = open("/proc/cmdline", O_RDONLY);
  if (file < 0 || read(file, line, sizeof line - 1) < 0) say("fatal: no /proc/cmdline");
  close(file);
  for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
    char *value = strchr(word, '=');
    if (strncmp(word, "xnbd.", 5) != 0 || !value) continue;
    *value++ = 0;
    if (strcmp(word + 5, "pause") == 0)
      pause_ms = atoi(value);
    else if (strcmp(word + 5, "spread") == 0)
      spread = atoi(value) > 0 ? atoi(value) : 1;
    else
      add_disk(word + 5, value);
  }
}

int main(void) {
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  console = open_serial("/dev/ttyS0", O_WRONLY);
  int commands = open_serial("/dev/ttyS1", O_RDONLY);
  shared = shared_memory(sizeof *shared);
  load_modules();
  read_command_line();
  for (int i = 0; i < disk_count; i++)
    if ((shared->disks[i].worker = fork()) == 0) work(&shared->disks[i]);
  say("ready disks=%d", disk_count);
  listen_and_beat(commands);
}
