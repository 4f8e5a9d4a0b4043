/**
 * A lease by which one can talk of it: whoever knows a lease may speak for its holder, so no refusal, no log
 * line and no status shows it. The tag is the same at both hosts.
 */
import { createHash } from 'node:crypto';

/** Eight hexadecimal digits; null for no lease. */
export function leaseTag(lease: string | null): string | null {
  return lease === null ? null : createHash('sha256').update(lease).digest('hex').slice(0, 8);
}
