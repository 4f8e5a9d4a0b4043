/**
 * From an address to a connection on which NBD requests may be sent: connect, STARTTLS where the URI says
 * nbds, and agree.
 *
 * The socket is read into one buffer for good (`onread`). Inside TLS that is not to be had: there node:tls
 * hands over a chunk a record.
 */
import { connect, type Socket } from 'node:net';
import { type ByteCoroutine, ByteDriver } from '../nbd/byte-coroutine.ts';
import type { AttachRequest } from '../nbd/handshake/attach.ts';
import {
  clientHandshake,
  HandshakeError,
  type ServerOffer,
  startTls,
} from '../nbd/handshake/client-handshake.ts';
import type { NbdAddress } from '../nbd/uri.ts';
import { connectTls, type TlsParty, TlsRefused } from '../pki/tls.ts';

const HANDSHAKE_TIMEOUT_MS = 10_000;
const RECEIVE_BUFFER = 1024 * 1024;

export interface ConnectOptions {
  address: NbdAddress;
  attach?: AttachRequest | undefined;
  allowOldstyle?: boolean;
  /** For nbds addresses. */
  tls?: TlsParty | undefined;
}

/** What becomes of the connection once it is agreed. */
export interface Begun<T> {
  result: T;
  /** Takes every byte from now on. */
  receive: (chunk: Buffer) => void;
}

/**
 * @param begin takes the socket over, with its 'error' and 'close', to which this listens no more.
 * @throws HandshakeError when the server refuses or is none; Error when it cannot be reached or takes over 10
 * seconds.
 */
export async function dialOrigin<T>(
  options: ConnectOptions,
  begin: (socket: Socket, offer: ServerOffer) => Begun<T>,
): Promise<T> {
  const { address, attach, tls } = options;
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const where = describeAddress(address);
  let receive: (chunk: Buffer) => void = () => undefined;
  let onError = (error: Error): void =>
    fail(
      new Error(
        `${where} cannot be reached: ${error.message}; does the origin run, and is its address right?`,
      ),
    );
  let onClose = (): void => fail(new Error(`${where} closed the connection during the NBD handshake`));
  const toReceive = (chunk: Buffer): void => receive(chunk);
  let socket = openSocket(address, toReceive);
  socket.on('error', onError).on('close', onClose);
  const timer = setTimeout(() => {
    fail(new Error(`${where} does not finish the NBD handshake within ${HANDSHAKE_TIMEOUT_MS / 1000} s`));
  }, HANDSHAKE_TIMEOUT_MS);

  const fail = (error: Error): void => {
    clearTimeout(timer);
    socket.destroy();
    if (error instanceof HandshakeError) {
      error.message = `${where}: ${error.message}`;
      reject(error);
    } else if (error instanceof TlsRefused) reject(new HandshakeError(`${where}: ${error.message}`, true));
    else reject(error);
  };
  const send = (bytes: Buffer): void => void socket.write(bytes);
  /** Feeds what is received to a part of the handshake, and what is left to whatever comes then. */
  const run = <R>(part: ByteCoroutine<R>, then: (value: R, rest: Buffer) => void): void => {
    const driver = new ByteDriver(part);
    receive = (chunk) => {
      try {
        const used = driver.feed(chunk);
        if (driver.result !== null) then(driver.result.value, chunk.subarray(used));
      } catch (error) {
        fail(error as Error);
      }
    };
  };
  const agree = (serverFlags?: number): void => {
    const handshake = clientHandshake(
      {
        exportName: address.name,
        allowOldstyle: options.allowOldstyle ?? false,
        ...(attach && { attach }),
        ...(serverFlags !== undefined && { serverFlags }),
      },
      send,
    );
    run(handshake, (offer, rest) => {
      clearTimeout(timer);
      socket.off('error', onError).off('close', onClose);
      const begun = begin(socket, offer);
      receive = begun.receive;
      // The caller, which awaits, sees the connection before the first reply: there is none yet.
      if (rest.length > 0) receive(rest);
      resolve(begun.result);
    });
  };
  const secure = async (host: string, serverFlags: number, party: TlsParty): Promise<void> => {
    socket.off('data', toReceive).off('close', onClose).pause();
    const stream = await connectTls(socket, host, party);
    socket = stream;
    onError = onClose = () =>
      // In TLS 1.3 a server that refuses us does so when we take the connection for made.
      fail(
        new HandshakeError(
          `the server hung up after TLS: is this host's certificate, ${party.credentials.files.cert}, in allow under [tls] at the server? Its log says more`,
          true,
        ),
      );
    stream.on('error', onError).on('close', onClose).on('data', toReceive);
    agree(serverFlags);
  };

  if (address.kind !== 'tls') {
    agree();
    return promise;
  }
  if (tls === undefined) {
    fail(
      new Error(`${where} is to be reached by TLS, and there are no certificates: name them with --tls-dir`),
    );
    return promise;
  }
  run(startTls(send), (serverFlags, rest) => {
    // A man in the middle could have put them there (CVE-2021-3716).
    if (rest.length > 0) throw new HandshakeError('bytes came between STARTTLS and TLS', true);
    secure(address.host, serverFlags, tls).catch(fail);
  });
  return promise;
}

function openSocket(address: NbdAddress, receive: (chunk: Buffer) => void): Socket {
  const buffer = address.kind === 'tls' ? null : Buffer.allocUnsafeSlow(RECEIVE_BUFFER);
  const socket = connect({
    ...(address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port }),
    ...(buffer !== null && {
      onread: {
        buffer,
        callback: (bytes: number) => {
          receive(buffer.subarray(0, bytes));
          return true;
        },
      },
    }),
  });
  if (buffer === null) socket.on('data', receive);
  socket.setNoDelay(true);
  socket.setKeepAlive(true, 10_000);
  return socket;
}

/** For messages. */
export function describeAddress(address: NbdAddress): string {
  return address.kind === 'unix' ? address.path : `${address.host}:${address.port}`;
}
