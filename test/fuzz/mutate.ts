/**
 * Makes something odd of a valid dialogue, which is a list of messages: fields get the values at which
 * programs break, bits flip, messages vanish, come twice, trade places, or end early. In the end the bytes
 * are cut as a network would cut them.
 */
import type { Random } from '../lab/model/random.ts';

/** Lengths, counts and offsets that are next to a limit of somebody. */
const numbers = [
  0n,
  1n,
  3n,
  7n,
  8n,
  0x7fn,
  0xffn,
  0xfffn,
  0x1000n,
  0x1001n,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x10_0000n,
  0x200_0000n,
  0x200_0001n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
];

export function mutate(messages: readonly Buffer[], random: Random): Buffer[] {
  const changed = messages.map((message) => Buffer.from(message));
  // One in eight stays as it is, but for the cuts.
  if (random.chance(8)) return changed;
  for (let count = 1 + random.below(4); count > 0 && changed.length > 0; count--) change(changed, random);
  return changed;
}

function change(messages: Buffer[], random: Random): void {
  // What comes late is reached only if all before it was left whole: so it is chosen more often.
  const spare = random.chance(2) ? 0 : Math.floor(messages.length / 2);
  const at = spare + random.below(messages.length - spare);
  const message = messages[at]!;
  switch (random.below(9)) {
    case 0:
    case 1:
    case 2:
      setNumber(message, random);
      break;
    case 3:
      if (message.length > 0) message[random.below(message.length)]! ^= 1 << random.below(8);
      break;
    case 4:
      messages.splice(at, 1);
      break;
    case 5:
      messages.splice(at, 0, ...new Array<Buffer>(1 + random.below(3)).fill(Buffer.from(message)));
      break;
    case 6:
      messages.splice(random.below(messages.length), 0, messages.splice(at, 1)[0]!);
      break;
    case 7:
      messages[at] = message.subarray(0, random.below(message.length + 1));
      break;
    case 8: {
      const noise = Buffer.from(Array.from({ length: random.below(40) }, () => random.below(256)));
      const cut = random.below(message.length + 1);
      messages[at] = Buffer.concat([message.subarray(0, cut), noise, message.subarray(cut)]);
    }
  }
}

/** Every field of NBD lies at an even offset of its message. */
function setNumber(message: Buffer, random: Random): void {
  const width = random.pick([2, 4, 8]);
  if (message.length < width) return;
  const at = random.below(Math.floor((message.length - width) / 2) + 1) * 2;
  const value = BigInt.asUintN(width * 8, random.pick(numbers));
  if (width === 2) message.writeUInt16BE(Number(value), at);
  else if (width === 4) message.writeUInt32BE(Number(value), at);
  else message.writeBigUInt64BE(value, at);
}

/** Cuts the bytes into pieces: the messages as they are, or anywhere. */
export function cut(messages: readonly Buffer[], random: Random): Buffer[] {
  if (random.chance(3)) return [...messages];
  const bytes = Buffer.concat(messages);
  // Single bytes of much data are nothing but slow.
  const longest = random.pick(bytes.length < 4000 ? [1, 7, 33, 500] : [40, 500, 70_000]);
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(at + 1 + random.below(longest), bytes.length);
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}
