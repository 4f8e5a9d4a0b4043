/**
 * What a client may ask of an export during its handshake: that it is named, that it is served, that it is
 * lent.
 */
import { OptionReply } from '../../nbd/constants.ts';
import type { HandshakeMemory } from '../../nbd/handshake/agreement.ts';
import { type HandshakeHost, type Refusal, ServerHandshake } from '../../nbd/handshake/server-handshake.ts';
import { printable } from '../../nbd/printable.ts';
import { diskName } from '../../store/records/record.ts';
import type { Client, Export } from '../export.ts';

/** @param memory of the process that began it; undefined: it begins here */
export function handshakeWith(served: Export, client: Client, memory?: HandshakeMemory): ServerHandshake {
  const known = diskName(served.name);
  const host: HandshakeHost = {
    names: () => (served.lender.refusesClients() === undefined ? [known] : []),
    find: (name) => (name === '' || name === known ? served.offer(client) : unknownExport(name)),
    brought: (peer) => {
      client.peer = peer;
    },
    attach: (request) => {
      if (request.name !== known) return unknownExport(request.name);
      return served.lender.attach(client, request);
    },
  };
  return new ServerHandshake(host, memory);
}

function unknownExport(name: string): Refusal {
  return { type: OptionReply.ERR_UNKNOWN, text: `no export '${printable(name)}' here` };
}
