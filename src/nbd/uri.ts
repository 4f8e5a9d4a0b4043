/**
 * NBD URIs (NetworkBlockDevice/nbd, doc/uri.md), these forms:
 *
 *     nbd://HOST[:PORT]/NAME     in the clear
 *     nbds://HOST[:PORT]/NAME    TLS or nothing
 *     nbd+unix:///NAME?socket=PATH
 *
 * With whose certificates is never said in the URI, because a URI may come from another host.
 */
import { NBD_DEFAULT_PORT, NBD_MAX_STRING } from './constants.ts';

export type NbdAddress =
  | { kind: 'tcp' | 'tls'; host: string; port: number; name: string }
  | { kind: 'unix'; path: string; name: string };

/** @throws Error of one line that names the URI and the form that it should have. */
export function parseNbdUri(text: string): NbdAddress {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw bad(text, 'is no URI');
  }
  if (url.username !== '' || url.password !== '')
    throw bad(text, 'has a user name, which is for keys shared in advance: certificates are used here');
  if (url.hash !== '') throw bad(text, "has a '#', which must be written %23 in a name");
  switch (url.protocol) {
    case 'nbd:':
      return parseHost('tcp', text, url);
    case 'nbds:':
      return parseHost('tls', text, url);
    case 'nbd+unix:':
      return parseUnix(text, url);
    case 'nbds+unix:':
      throw bad(text, 'asks for TLS on a unix socket, which never leaves this host');
    default:
      throw bad(text, `has the scheme '${url.protocol.slice(0, -1)}'`);
  }
}

export function formatNbdUri(address: NbdAddress): string {
  const name = address.name === '' ? '' : encodeURIComponent(address.name);
  if (address.kind === 'unix')
    return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const port = address.port === NBD_DEFAULT_PORT ? '' : `:${address.port}`;
  return `${address.kind === 'tls' ? 'nbds' : 'nbd'}://${host}${port}/${name}`;
}

/** Where the server of a URI is, for messages: a host, or the path of a socket. */
export function originHost(uri: string): string {
  try {
    const address = parseNbdUri(uri);
    return address.kind === 'unix' ? address.path : address.host;
  } catch {
    return 'its origin';
  }
}

function parseHost(kind: 'tcp' | 'tls', text: string, url: URL): NbdAddress {
  if (url.hostname === '') throw bad(text, 'names no host');
  if (url.port === '0') throw bad(text, 'has the port 0');
  if (url.search !== '') throw bad(text, `has the parameters '${url.search}', which are not known`);
  const host = decode(text, url.hostname).replace(/^\[(.*)\]$/, '$1');
  const port = url.port === '' ? NBD_DEFAULT_PORT : Number(url.port);
  return { kind, host, port, name: exportName(text, url) };
}

function parseUnix(text: string, url: URL): NbdAddress {
  if (url.host !== '') throw bad(text, `names the host '${url.host}'; it needs three slashes`);
  // Not searchParams: those take '+' for a space, NBD URIs do not.
  const socket = /^\?socket=([^&]+)$/.exec(url.search)?.[1];
  if (socket === undefined) throw bad(text, "names no socket, or other parameters than 'socket'");
  const path = decode(text, socket);
  return { kind: 'unix', path, name: exportName(text, url) };
}

function exportName(text: string, url: URL): string {
  const name = decode(text, url.pathname.replace(/^\//, ''));
  if (Buffer.byteLength(name) > NBD_MAX_STRING)
    throw bad(text.slice(0, 60), `has a name of more than ${NBD_MAX_STRING} bytes`);
  return name;
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw bad(text, "has a '%' that is not followed by two hexadecimal digits of UTF-8");
  }
}

function bad(text: string, why: string): Error {
  return new Error(
    `NBD URI '${text}' ${why}: use nbd://HOST[:PORT]/NAME, nbds://HOST[:PORT]/NAME (TLS) or nbd+unix:///NAME?socket=PATH`,
  );
}
