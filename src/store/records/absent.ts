/** What is told of an export that does not run, to a peer that asks for it: as far as its record tells. */
import { join } from 'node:path';
import { Recurring } from '../../log/recurring.ts';
import type { AttachRequest } from '../../nbd/handshake/attach.ts';
import { whatDeparted } from './departed.ts';
import { isExportName, readRecord } from './record.ts';
import { isVoid } from './void-leases.ts';

const unreadable = new Recurring('warning');

/**
 * `unknown`: there is no such export. `sleeping`: known, and does not run now: one that asks again later may
 * find it. `retired`: it will never serve again. `void`: the asking lease is, for good.
 */
export interface Absent {
  kind: 'unknown' | 'sleeping' | 'retired' | 'void';
  /** One line, for the peer. */
  text: string;
}

/** What a peer says of its lease. */
export type AskingLease = Pick<AttachRequest, 'uuid' | 'generation' | 'lease'>;

/** @param records directory of the records. @param asking undefined for a client without a lease */
export async function whyAbsent(records: string, name: string, asking?: AskingLease): Promise<Absent> {
  const sleeping = (why = ''): Absent => ({
    kind: 'sleeping',
    text: `export '${name}' does not run now${why}`,
  });
  if (!isExportName(name)) return { kind: 'unknown', text: 'there is no export of such a name' };
  try {
    const record = await readRecord(join(records, name));
    if (record === undefined) return await whyGone(records, name, asking);
    // The holder of a void lease may still be writing to its copy: tell it now, although the export does not
    // run.
    if (asking !== undefined && isVoid(record, asking.lease))
      return {
        kind: 'void',
        text: `export '${name}' was reclaimed by an administrator, and what was written elsewhere is void`,
      };
    if (record.state === 'retired' && record.origin === null)
      return { kind: 'retired', text: `export '${name}' is retired: its disk has moved to another host` };
    return sleeping(`; it is ${record.state}`);
  } catch (error) {
    unreadable.met(`the record of export ${name} cannot be read: ${(error as Error).message}`);
    return sleeping();
  }
}

async function whyGone(records: string, name: string, asking: AskingLease | undefined): Promise<Absent> {
  const unknown: Absent = { kind: 'unknown', text: `no export '${name}' runs here` };
  if (asking === undefined || asking.uuid === null) return unknown;
  switch (await whatDeparted(records, { ...asking, uuid: asking.uuid })) {
    case 'void':
      return { kind: 'void', text: `export '${name}' was void, and is deleted` };
    case 'moved away':
      return { kind: 'retired', text: `export '${name}' is deleted: its disk has moved to another host` };
    default:
      return unknown;
  }
}
