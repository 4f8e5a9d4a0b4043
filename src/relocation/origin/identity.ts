/** What makes an origin the one that we know: rule 9, and what it takes to never mix two disks. */

import { describeAddress } from '../../client/dial.ts';
import type { AttachRequest } from '../../nbd/handshake/attach.ts';
import { HandshakeError, type ServerOffer } from '../../nbd/handshake/client-handshake.ts';
import type { NbdAddress } from '../../nbd/uri.ts';

export interface OriginIdentity {
  /** null: a plain NBD server, which has none. */
  uuid: string | null;
  generation: number;
  sizeBytes: number;
  /** How often a guest had been started on it; left out where it does not tell. */
  epoch?: number | undefined;
}

/** What somebody has told of the origin before it is met. */
export interface ExpectedOrigin {
  uuid: string;
  /** 0: any. */
  generation: number;
}

/** For messages. */
export function describeOrigin(address: NbdAddress): string {
  return `${describeAddress(address)}/${address.name}`;
}

export function identityOf({ attached, size }: ServerOffer): OriginIdentity {
  return {
    uuid: attached?.uuid ?? null,
    generation: attached?.generation ?? 0,
    sizeBytes: size,
    epoch: attached?.epoch,
  };
}

/**
 * @param known of earlier meetings, or what was told of it; null: nothing is.
 * @param holder HOST:PORT by which the origin is to call us.
 */
export function attachRequest(
  lease: string,
  known: Pick<OriginIdentity, 'uuid' | 'generation' | 'epoch'> | null,
  address: NbdAddress,
  holder = '',
): AttachRequest {
  return {
    lease,
    uuid: known?.uuid ?? null,
    generation: known?.generation ?? 0,
    name: address.name,
    epoch: known?.epoch ?? 0,
    holder,
  };
}

/** @throws HandshakeError when it is another disk. */
export function checkIdentity(address: NbdAddress, known: OriginIdentity, met: OriginIdentity): void {
  const where = describeOrigin(address);
  if (met.sizeBytes !== known.sizeBytes) {
    throw new HandshakeError(
      `${where} has ${met.sizeBytes} bytes, not ${known.sizeBytes}: it is another disk, and nothing is taken from it`,
      true,
    );
  }
  if (met.uuid !== known.uuid || met.generation !== known.generation) {
    throw new HandshakeError(
      `${where} is disk ${met.uuid ?? '(none)'} generation ${met.generation}, not ${known.uuid ?? '(none)'} generation ${known.generation}: nothing is taken from it`,
      true,
    );
  }
}

/** @throws HandshakeError when it is not what was told, or cannot say what it is. */
export function checkExpected(address: NbdAddress, expected: ExpectedOrigin, met: OriginIdentity): void {
  const { uuid, generation } = expected;
  if (met.uuid === uuid && (generation === 0 || met.generation === generation)) return;
  throw new HandshakeError(
    `${describeOrigin(address)} is disk ${met.uuid ?? '(none)'} generation ${met.generation}, and disk ${uuid} generation ${generation} was to arrive: nothing is taken from it`,
    true,
  );
}
