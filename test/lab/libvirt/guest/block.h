/*
 * What a block of a disk holds: it follows from the disk's tag, the block's number and the sequence number of the write.
 * test/lab/pattern.ts has the same for the host.
 */
#ifndef BLOCK_H
#define BLOCK_H

#include <stdint.h>

#define BLOCK 4096
#define WORDS (BLOCK / 4)

void fill_block(uint32_t *words, uint32_t tag, uint32_t block, uint32_t seq);

/* Over all but the header; fill_block puts it into words[5]. */
uint32_t checksum(const uint32_t *words);

/* The host leaves the last quarter of every MiB of a new image as a hole. */
int is_hole(uint32_t block);

#endif
