/**
 * What a connection may do: attach with its lease, which is held against the disk's
 * identity and the lease in force; read and write, by the state of the disk.
 */
import { Errno, OptionReply } from '../../nbd/constants.ts';
import type { AttachRequest } from '../../nbd/handshake/attach.ts';
import type { Refusal } from '../../nbd/handshake/server-handshake.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import { isVoid } from '../../store/records/void-leases.ts';
import type { Lease } from './lease.ts';

/** `reclaimed`: our own origin has taken the disk back, by an administrator's word; what is here is void. */
export type LendState = 'serving' | 'lent' | 'fencing' | 'fenced' | 'retired' | 'reclaimed';

/** @param identity what the asking host is known by. @returns why it may not attach, or undefined */
export function whyNotAttached(
  record: Readonly<ExportRecord>,
  { state, lentTo, voided }: { state: LendState; lentTo: Lease | null; voided: string | null },
  request: AttachRequest,
  identity: string,
): Refusal | undefined {
  const refusal = (why: string, type: number = OptionReply.ERR_POLICY): Refusal => ({
    type,
    text: `export '${record.name}' ${why}`,
  });
  const { XNBD_ERR_VOID, XNBD_ERR_RETIRED } = OptionReply;
  if (isVoid(record, request.lease) || request.lease === voided) {
    return refusal(
      'was reclaimed here by an administrator, and what was written elsewhere is void',
      XNBD_ERR_VOID,
    );
  }
  if (state === 'retired') return refusal('is retired: its disk has moved to another host', XNBD_ERR_RETIRED);
  if (state === 'reclaimed') return refusal('is void: the disk was reclaimed by its origin');
  if (request.uuid !== null && request.uuid !== record.uuid)
    return refusal(`has uuid ${record.uuid}, not ${request.uuid}: it is another disk`);
  if (request.generation !== 0 && request.generation !== record.generation)
    return refusal(`is of generation ${record.generation}, not ${request.generation}`);
  if (lentTo !== null && lentTo.uuid !== request.lease)
    return refusal(`is ${state} already, to another lease`);
  if (lentTo !== null && lentTo.identity !== null && lentTo.identity !== identity)
    return refusal(`is ${state} already, to another host`);
  const { epoch = 0 } = request;
  if (state !== 'fenced' && epoch !== 0 && epoch !== record.epoch)
    return refusal('has had a guest started on it here since: what was to arrive is no more', XNBD_ERR_VOID);
  return undefined;
}

/** What a request wants of the disk. */
export type Access = 'read' | 'write' | 'flush';

/**
 * @param holds the connection is the lease holder's. @param remote it is that of a host of the network.
 * @returns errno, 0: it may
 */
export function accessFault(
  state: LendState,
  access: Access,
  { holds, remote }: { holds: boolean; remote: boolean },
): number {
  // No host of the network changes an image here, nor does the destination, whichever way it came.
  if (access === 'write' && (remote || holds)) return Errno.EPERM;
  switch (state) {
    case 'serving':
    case 'lent':
      return 0;
    case 'fencing':
      return access === 'write' ? Errno.EPERM : 0;
    case 'fenced':
      return access === 'flush' || (access === 'read' && holds) ? 0 : Errno.EPERM;
    case 'retired':
    case 'reclaimed':
      return Errno.ESHUTDOWN;
  }
}
