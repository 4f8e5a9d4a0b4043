/**
 * The peers that may be at the other end of a TLS connection, as the configuration names them: `NAME` or
 * `sha256:FINGERPRINT`, separated by commas.
 */

const FINGERPRINT = 'sha256:';

/**
 * @returns names as they are written, fingerprints as `sha256:` and 64 small hexadecimal digits; undefined
 * when the text is no such list.
 */
export function parseAllowedPeers(text: string): string[] | undefined {
  const peers = text.split(',').map((each) => allowedPeer(each.trim()));
  return peers.every((each) => each !== undefined) ? peers : undefined;
}

/** Colons between the bytes of a fingerprint, as openssl prints it, may stay. */
function allowedPeer(text: string): string | undefined {
  if (!text.toLowerCase().startsWith(FINGERPRINT))
    return /^[^\s*=][^\p{Cc}*=]*$/u.test(text) ? text : undefined;
  const digits = text.slice(FINGERPRINT.length).replaceAll(':', '').toLowerCase();
  return /^[0-9a-f]{64}$/.test(digits) ? FINGERPRINT + digits : undefined;
}
