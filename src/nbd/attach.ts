/** The private option by which a proxy attaches to its origin with a lease (docs/protocol.md), both directions. */
import { NBD_MAX_STRING } from './constants.ts';

const VERSION = 1;
const REQUEST_FIXED = 4 + 16 + 16 + 8 + 4;
const ATTACHED_LENGTH = 4 + 16 + 8 + 1 + 8;
const NIL = '00000000-0000-0000-0000-000000000000';

export interface AttachRequest {
  lease: string;
  /** Expected identity of the export; null: any. */
  uuid: string | null;
  /** Expected generation; 0: any. */
  generation: number;
  name: string;
}

export interface Attached {
  uuid: string;
  generation: number;
  /** The origin is fenced and this lease holds it. */
  fenced: boolean;
  /** Bytes. */
  size: number;
}

export function encodeAttachRequest(request: AttachRequest): Buffer {
  const name = Buffer.from(request.name);
  const data = Buffer.alloc(REQUEST_FIXED + name.length);
  data.writeUInt32BE(VERSION, 0);
  writeUuid(data, 4, request.lease);
  writeUuid(data, 20, request.uuid ?? NIL);
  data.writeBigUInt64BE(BigInt(request.generation), 36);
  data.writeUInt32BE(name.length, 44);
  name.copy(data, REQUEST_FIXED);
  return data;
}

/** @throws Error when the bytes are not a request of a version that we know. */
export function decodeAttachRequest(data: Buffer): AttachRequest {
  if (data.length < REQUEST_FIXED) throw new Error(`attach option of ${data.length} bytes is too short`);
  checkVersion(data);
  const nameLength = data.readUInt32BE(44);
  if (nameLength > NBD_MAX_STRING || data.length !== REQUEST_FIXED + nameLength) {
    throw new Error(`attach option of ${data.length} bytes has a name of ${nameLength} bytes`);
  }
  const uuid = readUuid(data, 20);
  return {
    lease: readUuid(data, 4),
    uuid: uuid === NIL ? null : uuid,
    generation: readCount(data, 36),
    name: data.toString('utf8', REQUEST_FIXED),
  };
}

export function encodeAttached(attached: Attached): Buffer {
  const data = Buffer.alloc(ATTACHED_LENGTH);
  data.writeUInt32BE(VERSION, 0);
  writeUuid(data, 4, attached.uuid);
  data.writeBigUInt64BE(BigInt(attached.generation), 20);
  data.writeUInt8(attached.fenced ? 1 : 0, 28);
  data.writeBigUInt64BE(BigInt(attached.size), 29);
  return data;
}

/** @throws Error when the bytes are not an answer of a version that we know. */
export function decodeAttached(data: Buffer): Attached {
  if (data.length !== ATTACHED_LENGTH)
    throw new Error(`attach answer of ${data.length} bytes, not ${ATTACHED_LENGTH}`);
  checkVersion(data);
  return {
    uuid: readUuid(data, 4),
    generation: readCount(data, 20),
    fenced: data.readUInt8(28) === 1,
    size: readCount(data, 29),
  };
}

function checkVersion(data: Buffer): void {
  const version = data.readUInt32BE(0);
  if (version !== VERSION)
    throw new Error(`attach version ${version} is not ${VERSION}: upgrade the older host`);
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
