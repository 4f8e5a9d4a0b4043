/**
 * The private option by which a proxy attaches to its origin with a lease (docs/protocol.md), both
 * directions.
 */
import { NBD_MAX_STRING } from '../constants.ts';

/**
 * What we speak; 1 is that of earlier releases, without epoch and holder, and is still understood and
 * answered in kind.
 */
const ATTACH_VERSION = 2;
const REQUEST_FIXED = 4 + 16 + 16 + 8 + 4;
const ATTACHED_LENGTH = 4 + 16 + 8 + 1 + 8;
const EPOCH_LENGTH = 8;
const MAX_HOLDER = 255;
const NIL = '00000000-0000-0000-0000-000000000000';

export interface AttachRequest {
  lease: string;
  /** Expected identity of the export; null: any. */
  uuid: string | null;
  /** Expected generation; 0: any. */
  generation: number;
  name: string;
  /** Expected epoch: how often a guest has been started on the disk; 0 or left out: any. */
  epoch?: number;
  /** Where the disk will be looked for once it has been taken over, HOST or HOST:PORT; left out: not told. */
  holder?: string;
  /** Left out: ours. */
  version?: number;
}

export interface Attached {
  uuid: string;
  generation: number;
  /** The origin is fenced and this lease holds it. */
  fenced: boolean;
  /** Bytes. */
  size: number;
  /** How often a guest has been started on the disk; left out by earlier releases. */
  epoch?: number;
}

/** Where a disk may be looked for: a host name or address, with or without a port. Empty: not told. */
export function isHolder(text: string): boolean {
  return text.length <= MAX_HOLDER && /^[A-Za-z0-9_.:[\]-]*$/.test(text);
}

export function encodeAttachRequest(request: AttachRequest): Buffer {
  const { version = ATTACH_VERSION } = request;
  const name = Buffer.from(request.name);
  const data = Buffer.alloc(REQUEST_FIXED + name.length);
  data.writeUInt32BE(version, 0);
  writeUuid(data, 4, request.lease);
  writeUuid(data, 20, request.uuid ?? NIL);
  data.writeBigUInt64BE(BigInt(request.generation), 36);
  data.writeUInt32BE(name.length, 44);
  name.copy(data, REQUEST_FIXED);
  if (version === 1) return data;
  const holder = Buffer.from(request.holder ?? '');
  const more = Buffer.alloc(EPOCH_LENGTH + 4);
  more.writeBigUInt64BE(BigInt(request.epoch ?? 0), 0);
  more.writeUInt32BE(holder.length, EPOCH_LENGTH);
  return Buffer.concat([data, more, holder]);
}

/** @throws Error when the bytes are not a request of a version that we know. */
export function decodeAttachRequest(data: Buffer): AttachRequest {
  if (data.length < REQUEST_FIXED) throw new Error(`attach option of ${data.length} bytes is too short`);
  const version = versionOf(data);
  const nameLength = data.readUInt32BE(44);
  const end = REQUEST_FIXED + nameLength;
  if (nameLength > NBD_MAX_STRING || end > data.length || (version === 1 && data.length !== end)) {
    throw new Error(`attach option of ${data.length} bytes has a name of ${nameLength} bytes`);
  }
  const uuid = readUuid(data, 20);
  const request = {
    version,
    lease: readUuid(data, 4),
    uuid: uuid === NIL ? null : uuid,
    generation: readCount(data, 36),
    name: data.toString('utf8', REQUEST_FIXED, end),
  };
  return version === 1 ? request : { ...request, ...decodeMore(data.subarray(end)) };
}

/** What version 2 has after the name. */
function decodeMore(data: Buffer): { epoch: number; holder: string } {
  const fixed = EPOCH_LENGTH + 4;
  const length = data.length < fixed ? Number.NaN : data.readUInt32BE(EPOCH_LENGTH);
  if (length !== data.length - fixed)
    throw new Error(`attach option has ${data.length} bytes after its name, of which ${length} are a holder`);
  const holder = data.toString('latin1', fixed);
  if (!isHolder(holder)) throw new Error('attach option names a holder that is no HOST:PORT');
  return { epoch: readCount(data, 0), holder };
}

/** @param version that of the request */
export function encodeAttached(attached: Attached, version = ATTACH_VERSION): Buffer {
  const data = Buffer.alloc(ATTACHED_LENGTH + (version === 1 ? 0 : EPOCH_LENGTH));
  data.writeUInt32BE(version, 0);
  writeUuid(data, 4, attached.uuid);
  data.writeBigUInt64BE(BigInt(attached.generation), 20);
  data.writeUInt8(attached.fenced ? 1 : 0, 28);
  data.writeBigUInt64BE(BigInt(attached.size), 29);
  if (version !== 1) data.writeBigUInt64BE(BigInt(attached.epoch ?? 0), ATTACHED_LENGTH);
  return data;
}

/** @throws Error when the bytes are not an answer of a version that we know. */
export function decodeAttached(data: Buffer): Attached {
  const version = data.length < 4 ? 0 : versionOf(data);
  const length = ATTACHED_LENGTH + (version === 1 ? 0 : EPOCH_LENGTH);
  if (data.length !== length) throw new Error(`attach answer of ${data.length} bytes, not ${length}`);
  return {
    uuid: readUuid(data, 4),
    generation: readCount(data, 20),
    fenced: data.readUInt8(28) === 1,
    size: readCount(data, 29),
    ...(version !== 1 && { epoch: readCount(data, ATTACHED_LENGTH) }),
  };
}

function versionOf(data: Buffer): number {
  const version = data.readUInt32BE(0);
  if (version !== 1 && version !== ATTACH_VERSION)
    throw new Error(`attach version ${version} is not ${ATTACH_VERSION}: upgrade the older host`);
  return version;
}

function writeUuid(into: Buffer, at: number, uuid: string): void {
  into.write(uuid.replaceAll('-', ''), at, 16, 'hex');
}

function readUuid(data: Buffer, at: number): string {
  const hex = data.toString('hex', at, at + 16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

function readCount(data: Buffer, at: number): number {
  const count = data.readBigUInt64BE(at);
  if (count > BigInt(Number.MAX_SAFE_INTEGER))
    throw new Error(`attach carries the number ${count}, larger than 2^53`);
  return Number(count);
}
