/** The one place where a request is judged before it reaches a disk: the range first, then the flags. */
import { Command, CommandFlag, Errno, HASH_MAX, NBD_MAX_PAYLOAD } from '../../nbd/constants.ts';
import type { Agreement } from '../../nbd/handshake/agreement.ts';
import { Feature } from '../../nbd/handshake/features.ts';

export interface RequestFields {
  type: number;
  flags: number;
  /** Bytes. */
  offset: number;
  length: number;
}

export interface RequestLimits {
  /** Bytes. */
  size: number;
  readOnly: boolean;
  /** `base:allocation` has been negotiated. */
  baseAllocation: boolean;
  /** Replies are structured: a READ may ask for one piece, and always gets one. */
  structured: boolean;
  /** The connection has a lease. */
  attached: boolean;
  /** A READ may say that no client waits for it. */
  background: boolean;
}

/** @param size of the disk, bytes */
export function requestLimits(agreement: Agreement, size: number, readOnly: boolean): RequestLimits {
  const { baseAllocation, structuredReplies: structured, attached } = agreement;
  const background = (agreement.features & Feature.BACKGROUND) !== 0;
  return { size, readOnly, baseAllocation, structured, attached, background };
}

export interface RequestFault {
  errno: number;
  /** One line that names the command and the numbers. */
  text: string;
}

const FUA = CommandFlag.FUA;

/** Flags that each command takes. FUA is allowed everywhere, and means nothing where nothing is written. */
const allowedFlags = new Map<number, number>([
  [Command.READ, FUA | CommandFlag.DF],
  [Command.WRITE, FUA],
  [Command.FLUSH, FUA],
  [Command.TRIM, FUA],
  [Command.CACHE, FUA],
  [Command.WRITE_ZEROES, FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO],
  [Command.BLOCK_STATUS, FUA | CommandFlag.REQ_ONE],
  [Command.XNBD_TAKEOVER, 0],
  [Command.XNBD_GIVE_BACK, 0],
  [Command.XNBD_RETIRE, 0],
  [Command.XNBD_WAIT_GONE, 0],
  [Command.XNBD_HASH, 0],
  [Command.XNBD_PING, 0],
]);

const commandNames = new Map<number, string>(Object.entries(Command).map(([name, number]) => [number, name]));

export function commandName(type: number): string {
  return commandNames.get(type) ?? `command ${type}`;
}

/** @returns undefined when the disk may be asked. */
export function checkRequest(request: RequestFields, limits: RequestLimits): RequestFault | undefined {
  return checkRange(request, limits) ?? checkFlags(request, limits);
}

function checkRange(request: RequestFields, limits: RequestLimits): RequestFault | undefined {
  const { type, offset, length } = request;
  switch (type) {
    case Command.READ:
    case Command.WRITE:
    case Command.TRIM:
    case Command.CACHE:
    case Command.WRITE_ZEROES:
    case Command.BLOCK_STATUS:
    case Command.XNBD_HASH:
      break;
    case Command.XNBD_TAKEOVER:
    case Command.XNBD_GIVE_BACK:
    case Command.XNBD_RETIRE:
    case Command.XNBD_WAIT_GONE:
    case Command.XNBD_PING:
      return offset === 0 && length === 0 ? undefined : fault(request, Errno.EINVAL, 'takes no range');
    default:
      return undefined;
  }
  if (length === 0) return fault(request, Errno.EINVAL, 'has no length');
  if (offset + length > limits.size) {
    const grows = type === Command.WRITE || type === Command.WRITE_ZEROES;
    return fault(request, grows ? Errno.ENOSPC : Errno.EINVAL, `ends past the disk's ${limits.size} bytes`);
  }
  if (type === Command.READ && length > NBD_MAX_PAYLOAD) {
    return fault(request, Errno.EOVERFLOW, `asks for more than ${NBD_MAX_PAYLOAD} bytes`);
  }
  if (type === Command.XNBD_HASH && length > HASH_MAX) {
    return fault(request, Errno.EOVERFLOW, `asks for more than ${HASH_MAX} bytes`);
  }
  return undefined;
}

function checkFlags(request: RequestFields, limits: RequestLimits): RequestFault | undefined {
  const { type, flags } = request;
  const known = allowedFlags.get(type);
  if (known === undefined) return fault(request, Errno.EINVAL, 'is unknown');
  const marks = limits.background && type === Command.READ;
  const allowed = marks ? known | CommandFlag.XNBD_BACKGROUND : known;
  if ((flags & ~allowed) !== 0) {
    return fault(
      request,
      Errno.EINVAL,
      `has flags 0x${flags.toString(16)}, of which 0x${allowed.toString(16)} are known`,
    );
  }
  if ((flags & CommandFlag.DF) !== 0 && !limits.structured)
    return fault(request, Errno.EINVAL, 'has the flag DF without structured replies');
  const writes = type === Command.WRITE || type === Command.TRIM || type === Command.WRITE_ZEROES;
  if (writes && limits.readOnly) return fault(request, Errno.EPERM, 'on a read-only export');
  if (type === Command.BLOCK_STATUS && !limits.baseAllocation) {
    return fault(request, Errno.EINVAL, 'without a negotiated context');
  }
  if (type >= Command.XNBD_TAKEOVER && !limits.attached)
    return fault(request, Errno.EINVAL, 'without a lease');
  if (type === Command.XNBD_HASH && !limits.structured)
    return fault(request, Errno.EINVAL, 'without structured replies');
  return undefined;
}

function fault(request: RequestFields, errno: number, why: string): RequestFault {
  const { type, offset, length } = request;
  return { errno, text: `${commandName(type)} at offset ${offset} of ${length} bytes ${why}` };
}
