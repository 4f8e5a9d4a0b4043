/** The arguments of `xnbd-export` for a disk of this host: as its record says, or as it arrives. */
import { formatAddress } from '../../config/address.ts';
import { someCapHolds } from '../../config/caps.ts';
import type { Config } from '../../config/config.ts';
import { type ExportPaths, exportPaths } from '../../config/export-paths.ts';
import { settingArguments } from '../../config/settings.ts';
import { log } from '../../log/log.ts';
import { originArguments } from '../../pki/host-party.ts';
import { choicesPath, readChoices } from '../../store/records/choices.ts';
import { type ExportRecord, readRecord } from '../../store/records/record.ts';

/** The origin of a disk that arrives, as it is first met. */
export interface ArrivingOrigin {
  uri: string;
  /** What it has to be; undefined where nobody told. */
  expected?: { uuid: string; generation: number } | undefined;
  /** Its certificate has to be in `allow`. */
  mustBeAllowed: boolean;
}

/**
 * What an export of this host is started with. A disk that arrives is a proxy that keeps nothing until its
 * guest writes, or it is told.
 * @throws Error when the host has no record of the disk, and it does not arrive.
 */
export async function exportArguments(
  config: Config,
  name: string,
  arrival?: ArrivingOrigin,
): Promise<string[]> {
  const paths = exportPaths(config.paths, name);
  if (arrival !== undefined)
    return [...(await proxyArguments(config, name, paths, arrival.uri)), ...firstMeeting(arrival)];
  const record = await readRecord(paths.stateDir);
  if (record === undefined) throw new Error(`this host has no record of export ${name}`);
  return await recordArguments(config, record, paths);
}

async function recordArguments(config: Config, record: ExportRecord, paths: ExportPaths): Promise<string[]> {
  const { name, image, origin } = record;
  // A proxy keeps its origin until it has told it to retire, which may be later than its last block.
  if (origin !== null) return await proxyArguments(config, name, { ...paths, image }, origin.uri);
  return ['target', name, '--image', image, ...common(paths)];
}

async function proxyArguments(
  config: Config,
  name: string,
  paths: ExportPaths,
  originUri: string,
): Promise<string[]> {
  const { relocation, gateway, tls } = config;
  return [
    ...['proxy', name, '--image', paths.image, '--origin', originUri],
    ...common(paths),
    ...['--takeover', 'first-write'],
    ...settingArguments(relocation),
    ...((await mustAwaitShare(config)) ? ['--await-share'] : []),
    ...['--holder', formatAddress(gateway.advertise)],
    ...(await originArguments(originUri, tls)),
  ];
}

/** Something holds for all disks of the host: what this one may take of it only the daemon can tell. */
async function mustAwaitShare(config: Config): Promise<boolean> {
  try {
    return someCapHolds(config, await readChoices(choicesPath(config.paths)), new Date());
  } catch (error) {
    // There may be a cap: none is exceeded.
    log.error((error as Error).message);
    return true;
  }
}

/** For the first meeting alone: later the record tells what the origin is. */
function firstMeeting({ expected, mustBeAllowed }: ArrivingOrigin): string[] {
  return [
    ...(expected === undefined
      ? []
      : ['--origin-uuid', expected.uuid, '--origin-generation', String(expected.generation)]),
    ...(mustBeAllowed ? ['--tls-only-allowed'] : []),
  ];
}

function common(paths: ExportPaths): string[] {
  return ['--socket', paths.socket, '--state', paths.stateDir, '--ctl', paths.ctl, '--source-gone', 'told'];
}
