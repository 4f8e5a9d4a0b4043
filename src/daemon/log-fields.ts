/**
 * What the daemon knows of the disk that a line of its log is about: its domain, and the state that it is in.
 */
import type { LogFields } from '../log/entry.ts';
import type { Host } from './host.ts';

export function knownFields(
  { domains, moves, exports }: Pick<Host, 'domains' | 'moves' | 'exports'>,
  { export: name }: LogFields,
): LogFields {
  if (name === undefined) return {};
  const domain = domains.using(name) ?? moves.ofExport(name)?.domain;
  const state = exports.status(name)?.state;
  return {
    ...(domain !== undefined && { domain: domain.name, domainUuid: domain.uuid }),
    ...(state !== undefined && { state }),
  };
}
