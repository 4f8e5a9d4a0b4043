/**
 * What a client may say before TLS, where TLS is required (NBD's FORCEDTLS mode): STARTTLS and ABORT. Any
 * other option is refused, and no answer depends on what exports there are, so a stranger learns nothing but
 * that this is an NBD server.
 *
 * Bytes that came before the TLS handshake and were not asked for could have been put there by anybody
 * (CVE-2021-3716): a client waits for the answer to STARTTLS, so one that has more to say ends there. Those
 * that arrive later meet TLS, which takes them for a broken record.
 */
import { log } from '../log/log.ts';
import { Option, OptionReply } from '../nbd/constants.ts';
import { encodeOptionReply } from '../nbd/handshake/option-framing.ts';
import { acceptTls, type TlsParty } from '../pki/tls.ts';
import { BadClient, readOption } from './read-option.ts';
import type { Visitor } from './transport.ts';

/** Clients ask for structured replies and the like before they think of TLS, if at all. */
const MAX_PLAIN_OPTIONS = 16;

/**
 * Makes the visitor's stream a TLS stream to a peer that we know.
 * @returns false when the client left in an orderly way.
 * @throws BadClient, TlsRefused, StreamEnded.
 */
export async function secure(visitor: Visitor, tls: TlsParty): Promise<boolean> {
  const plain = visitor.stream;
  for (let count = 0; count < MAX_PLAIN_OPTIONS; count++) {
    const { option, data } = await readOption(plain);
    switch (option) {
      case Option.ABORT:
        plain.end(encodeOptionReply(option, OptionReply.ACK));
        return false;
      case Option.EXPORT_NAME:
        // It has no way to say no but to hang up.
        throw new BadClient('it wants an export without TLS');
      case Option.STARTTLS: {
        if (data.length > 0) {
          plain.write(encodeOptionReply(option, OptionReply.ERR_INVALID, 'STARTTLS takes no data'));
          break;
        }
        if (plain.readableLength > 0) throw new BadClient('it sent bytes between STARTTLS and TLS');
        plain.write(encodeOptionReply(option, OptionReply.ACK));
        const { stream, peer, identity } = await acceptTls(plain, tls);
        visitor.stream = stream;
        visitor.identity = identity;
        visitor.who += ` (${peer})`;
        log.debug(`${visitor.who} speaks TLS`);
        return true;
      }
      default:
        plain.write(
          encodeOptionReply(option, OptionReply.ERR_TLS_REQD, 'TLS is required here: STARTTLS first'),
        );
    }
  }
  throw new BadClient(`${MAX_PLAIN_OPTIONS} options, and none was STARTTLS`);
}
