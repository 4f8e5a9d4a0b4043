/** A TCP address as people write it. */

export interface Address {
  /** A name or an IP address, IPv6 without its brackets. */
  readonly host: string;
  /** 1 to 65535; 0, where that is allowed: any that is free. */
  readonly port: number;
}

/** Splits `HOST:PORT` or `[IPV6]:PORT`; undefined for anything else, and for a port below `leastPort`. */
export function parseAddress(text: string, leastPort = 1): Address | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([\w.-]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  return host === undefined || port < leastPort || port > 65_535 ? undefined : { host, port };
}

/** The address as `parseAddress` takes it. */
export function formatAddress({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
