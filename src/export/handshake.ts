/** What a client may ask of an export during its handshake: that it is named, that it is served, that it is lent. */
import { OptionReply } from '../nbd/constants.ts';
import { printable, type Refusal, ServerHandshake } from '../nbd/server-handshake.ts';
import type { Client, Export } from './export.ts';

export function handshakeWith(served: Export, client: Client): ServerHandshake {
  return new ServerHandshake({
    names: () => (served.lender.refusesClients() === undefined ? [served.name] : []),
    find: (name) => (name === '' || name === served.name ? served.offer() : unknownExport(name)),
    attach: (request) => {
      if (request.name !== served.name) return unknownExport(request.name);
      return served.lender.attach(client, request);
    },
  });
}

function unknownExport(name: string): Refusal {
  return { type: OptionReply.ERR_UNKNOWN, text: `no export '${printable(name)}' here` };
}
