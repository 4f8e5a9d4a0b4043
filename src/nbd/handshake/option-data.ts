/**
 * What the data of the longer handshake options hold. Every length in them is checked; undefined means
 * malformed.
 */
import { NBD_MAX_STRING } from '../constants.ts';

export interface InfoRequest {
  name: string;
  /** Info.* numbers that the client asks for. */
  infos: number[];
}

/** INFO and GO: u32 name length, name, u16 count, count times u16. */
export function parseInfoRequest(data: Buffer): InfoRequest | undefined {
  const named = parseString(data, 0);
  if (named === undefined || named.next + 2 > data.length) return undefined;
  const count = data.readUInt16BE(named.next);
  const first = named.next + 2;
  if (data.length !== first + 2 * count) return undefined;
  const infos = Array.from({ length: count }, (_, index) => data.readUInt16BE(first + 2 * index));
  return { name: named.text, infos };
}

export interface MetaContextRequest {
  name: string;
  queries: string[];
}

/**
 * LIST_META_CONTEXT and SET_META_CONTEXT: u32 name length, name, u32 count, count times u32 length and query.
 */
export function parseMetaContextRequest(data: Buffer): MetaContextRequest | undefined {
  const named = parseString(data, 0);
  if (named === undefined || named.next + 4 > data.length) return undefined;
  const count = data.readUInt32BE(named.next);
  const queries: string[] = [];
  let at = named.next + 4;
  for (let index = 0; index < count; index++) {
    const query = parseString(data, at);
    if (query === undefined) return undefined;
    queries.push(query.text);
    at = query.next;
  }
  return at === data.length ? { name: named.text, queries } : undefined;
}

function parseString(data: Buffer, at: number): { text: string; next: number } | undefined {
  if (at + 4 > data.length) return undefined;
  const length = data.readUInt32BE(at);
  const next = at + 4 + length;
  if (length > NBD_MAX_STRING || next > data.length) return undefined;
  return { text: data.toString('utf8', at + 4, next), next };
}
