/**
 * A plain connection becomes a TLS one, in the middle of it (STARTTLS), and both sides show a certificate. A
 * peer that has none that our CA signed, or is not the one we expect, is not let through: the promise fails,
 * and no byte from it has been handed on.
 *
 * node:tls is loaded with the first connection that wants it: it is 3 MB in every process of a disk, and most
 * have no TLS.
 */
import { constants } from 'node:crypto';
import { isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Server, TLSSocket } from 'node:tls';
import type { Credentials, Material } from './credentials.ts';
import { describeCertificate, identityOf, isAllowed, isNamed } from './trust.ts';

/** This host's certificate, and the peers that it accepts. */
export interface TlsParty {
  credentials: Credentials;
  /** Peers by name or fingerprint (src/config/allowed-peers.ts). */
  allow: readonly string[];
  /** As a client: a server has to be in `allow`; that it is of the host which we went to is not enough. */
  onlyAllowed?: boolean;
}

/**
 * The other side has no certificate that we accept, or TLS itself failed. One line for the log; nothing of it
 * goes to the peer.
 */
export class TlsRefused extends Error {}

/**
 * A server does one handshake at a time, because it does not say which connection a fault is of; one whose
 * handshake succeeded does the next, so that certificate and key are not read anew each time. Gone with the
 * material that they were made of.
 */
const idleServers = new WeakMap<Material, Server[]>();
const MOST_IDLE = 16;

/** No session is ever resumed (no tickets, no cache), so each handshake shows a certificate. */
function serverOf(material: Material): Server {
  return process.getBuiltinModule('node:tls').createServer({
    ...material,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: 'TLSv1.3',
    secureOptions: constants.SSL_OP_NO_TICKET,
  });
}

/**
 * The server's side. Only those in `allow` pass.
 * @returns the stream inside, with the peer's certificate described, and what it is known by.
 * @throws TlsRefused; the connection is closed then.
 */
export async function acceptTls(
  plain: Duplex,
  party: TlsParty,
): Promise<{ stream: TLSSocket; peer: string; identity: string }> {
  const material = await party.credentials.current();
  const server = idleServers.get(material)?.pop() ?? serverOf(material);
  const stream = await new Promise<TLSSocket>((resolve, reject) => {
    server.on('secureConnection', resolve);
    server.on('tlsClientError', (error: NodeJS.ErrnoException, refused) => {
      reject(new TlsRefused(whyRefused(error, refused.authorizationError)));
    });
    // TLS hears of it, too, and may know why.
    plain.once('close', () => setImmediate(reject, new TlsRefused('it left during the TLS handshake')));
    // A peer that has closed its sending side cannot finish the handshake: close ours too.
    plain.allowHalfOpen = false;
    if (plain.destroyed) reject(new TlsRefused('it left before the TLS handshake'));
    else server.emit('connection', plain);
  }).catch((error: unknown) => {
    plain.destroy();
    throw error;
  });
  server.removeAllListeners('secureConnection').removeAllListeners('tlsClientError');
  const idle = idleServers.get(material) ?? [];
  idleServers.set(material, idle);
  if (idle.length < MOST_IDLE) idle.push(server);
  stream.allowHalfOpen = true;
  stream.on('error', () => stream.destroy());
  const certificate = stream.getPeerX509Certificate();
  if (certificate !== undefined && isAllowed(certificate, party.allow)) {
    return { stream, peer: describeCertificate(certificate), identity: identityOf(certificate) };
  }
  stream.destroy();
  throw new TlsRefused(
    `its certificate (${certificate === undefined ? 'none' : describeCertificate(certificate)}) is not in allow under [tls]`,
  );
}

/**
 * The client's side. The server's certificate must be of the host that we went to, or in `allow`.
 * @param host name or address, as the URI has it.
 * @throws TlsRefused; the connection is closed then.
 */
export async function connectTls(plain: Duplex, host: string, party: TlsParty): Promise<TLSSocket> {
  const material = await party.credentials.current();
  const { connect } = process.getBuiltinModule('node:tls');
  const stream = await new Promise<TLSSocket>((resolve, reject) => {
    if (plain.destroyed) throw new TlsRefused('the connection ended before the TLS handshake');
    const secured = connect({
      ...material,
      socket: plain,
      // What a name indication is, RFC 6066 leaves to names.
      ...(isIP(host) === 0 && !host.includes('%') ? { servername: host } : {}),
      rejectUnauthorized: true,
      minVersion: 'TLSv1.2',
      // Judged below, with the certificate as OpenSSL reads it.
      checkServerIdentity: () => undefined,
    });
    secured.once('secureConnect', () => resolve(secured));
    // Stays until the owner has its own: an error without a listener ends the process.
    secured.on('error', (error: NodeJS.ErrnoException) =>
      reject(new TlsRefused(whyRefused(error, undefined))),
    );
    secured.once('close', () => reject(new TlsRefused('the connection ended during the TLS handshake')));
  }).catch((error: unknown) => {
    plain.destroy();
    throw error;
  });
  const certificate = stream.getPeerX509Certificate();
  const named = party.onlyAllowed !== true && certificate !== undefined && isNamed(certificate, host);
  if (certificate !== undefined && (named || isAllowed(certificate, party.allow))) return stream;
  stream.destroy();
  throw new TlsRefused(
    `the server's certificate (${certificate === undefined ? 'none' : describeCertificate(certificate)}) is ${party.onlyAllowed === true ? 'not' : `neither of '${host}' nor`} in allow under [tls]`,
  );
}

/**
 * @param authorization what the verification of the peer's certificate said, where it was not what failed the
 * handshake.
 */
function whyRefused(error: NodeJS.ErrnoException, authorization: Error | string | null | undefined): string {
  // Node gives the code of the verification, whatever its type says. As an error it is neither OpenSSL's nor
  // the system's.
  const code = authorization ?? (/^(ERR_|E[A-Z]+$)/.test(error.code ?? 'ERR_') ? null : error.code);
  if (code !== null) return `the certificate of the other side is not accepted: ${String(code)}`;
  if (error.code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE') return 'it shows no certificate';
  return `the TLS handshake failed: ${(error.code ?? error.message).slice(0, 200)}`;
}
