/**
 * NBD URIs (NetworkBlockDevice/nbd, doc/uri.md): `nbd://HOST[:PORT]/NAME` and `nbd+unix:///NAME?socket=PATH`.
 * TLS forms (`nbds:`) are named in the error until there is TLS.
 */
import { NBD_DEFAULT_PORT, NBD_MAX_STRING } from './constants.ts';

/** Where an export is to be had: over TCP (`path` is null) or on a unix socket. */
export type NbdAddress =
  | { path: null; host: string; port: number; exportName: string }
  | { path: string; host: null; port: null; exportName: string };

const FORMS = 'nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH';

/** @throws Error, one line, that names the URI and the forms that are known. */
export function parseNbdUri(text: string): NbdAddress {
  const refuse = (why: string) => new Error(`origin '${text.slice(0, 200)}' ${why}: use ${FORMS}`);
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw refuse('is not a URI');
  }
  let exportName: string;
  try {
    exportName = decodeURIComponent(url.pathname.replace(/^\//, ''));
  } catch {
    throw refuse('has a name that is not UTF-8');
  }
  if (Buffer.byteLength(exportName) > NBD_MAX_STRING)
    throw refuse(`has a name of more than ${NBD_MAX_STRING} bytes`);
  if (url.username !== '' || url.password !== '') throw refuse('names a user, which NBD does not have');
  switch (url.protocol) {
    case 'nbd:': {
      if (url.hostname === '') throw refuse('names no host');
      const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
      return { path: null, host, port: url.port === '' ? NBD_DEFAULT_PORT : Number(url.port), exportName };
    }
    case 'nbd+unix:': {
      const path = url.searchParams.get('socket');
      if (path === null || path === '') throw refuse('names no socket');
      return { path, host: null, port: null, exportName };
    }
    case 'nbds:':
    case 'nbds+unix:':
      throw refuse('asks for TLS, which is not built in yet');
    default:
      throw refuse(`is a '${url.protocol}' URI`);
  }
}

/** The URI of an address, in its one canonical form. */
export function formatNbdUri(address: NbdAddress): string {
  const name = address.exportName.split('/').map(encodeURIComponent).join('/');
  if (address.path !== null)
    return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `nbd://${host}:${address.port}/${name}`;
}
