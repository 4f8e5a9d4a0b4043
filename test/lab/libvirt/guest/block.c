#include "block.h"

#include <string.h>

static uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  x ^= x >> 16;
  return x;
}

#define HEADER_WORDS 8

uint32_t checksum(const uint32_t *words) {
  uint32_t sum = 0x811c9dc5U;
  for (int i = HEADER_WORDS; i < WORDS; i++) sum = (sum ^ words[i]) * 0x01000193U;
  return sum;
}

void fill_block(uint32_t *words, uint32_t tag, uint32_t block, uint32_t seq) {
  uint32_t x = mix(tag ^ mix(block ^ mix(seq)));
  if (x == 0) x = 1;
  for (int i = HEADER_WORDS; i < WORDS; i++) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    words[i] = x;
  }
  memcpy(words, "xNBDblk", 8);
  words[2] = tag;
  words[3] = block;
  words[4] = seq;
  words[5] = checksum(words);
  words[6] = words[7] = 0;
}

int is_hole(uint32_t block) { return ((block >> 6) & 3) == 3; }
