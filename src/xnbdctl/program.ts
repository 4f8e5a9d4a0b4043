/** The commands of `xnbdctl`: what may be written, and what is then done. */
import { Command, CommanderError } from 'commander';
import packageJson from '../../package.json' with { type: 'json' };
import { chosenCap } from '../config/caps.ts';
import { defaultConfigPath, loadConfig } from '../config/config.ts';
import { exportPaths, type HostPaths } from '../config/export-paths.ts';
import { diskRows, parseDiskSetting } from '../config/settings.ts';
import { exportNames } from '../store/records/export-names.ts';
import { checkExportName } from '../store/records/record.ts';
import { deleteLeft } from './delete.ts';
import {
  ANSWER_LIMIT_MS,
  connectRunning,
  type KnownExport,
  knownExport,
  knownExports,
  namesInUse,
} from './known-exports.ts';
import { hasLimits, limitLines, pauseAll, setHostLimit, setPeerLimit } from './limits.ts';
import { showLog } from './log.ts';
import { addPkiCommands } from './pki/commands.ts';
import { restart, restartEach, running, upgradable, type Which } from './restart.ts';
import { listTable, statusDetails, statusTable } from './table.ts';
import { abandon, setOriginTimeout, setSetting, takeOver } from './takeover-abandon-set.ts';
import { accept, verify } from './verify.ts';
import { watch } from './watch/watch.ts';

const EXIT_FAILURE = 1;
const EXIT_USAGE = 2;

interface GlobalOptions {
  config?: string;
  ctl?: string;
}

/** Written wrongly on the command line. */
class UsageError extends Error {}

/** @param argv as in process.argv. @returns the exit code: 0, 1 failure, 2 usage. */
export async function runXnbdctl(argv: readonly string[]): Promise<number> {
  try {
    await program().parseAsync([...argv]);
    return 0;
  } catch (error) {
    // Commander has written its own message.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
    process.stderr.write(`xnbdctl: ${(error as Error).message}\n`);
    return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE;
  }
}

/** The command line, which manual pages and completion tell, too. */
export function program(): Command {
  const xnbdctl = new Command('xnbdctl')
    .description('Shows and steers the xNBD disks of this host.')
    .version(packageJson.version)
    .option('--config <file>', `configuration (default: ${defaultConfigPath})`)
    .option('--ctl <path>', 'control socket of one export, without configuration')
    .showHelpAfterError('(xnbdctl --help shows what may be written)')
    .exitOverride();
  const options = (): GlobalOptions => xnbdctl.opts();

  xnbdctl
    .command('list')
    .description('the disks, one a line')
    .option('--json', 'as a JSON array')
    .option('--in-use', 'only the names of those that a guest or another host uses now')
    .action(async ({ json = false, inUse = false }: { json?: boolean; inUse?: boolean }) => {
      const exports = await gather(options(), undefined);
      if (inUse) process.stdout.write(namesInUse(exports));
      else print(exports, json, listTable);
    });

  xnbdctl
    .command('status [name]')
    .description('how the disks are, or all about one')
    .option('--json', 'as a JSON array')
    .action(async (name: string | undefined, { json = false }: { json?: boolean }) => {
      const one = name !== undefined || options().ctl !== undefined;
      const exports = await gather(options(), name);
      print(exports, json, one ? (each) => each.map(statusDetails).join('\n\n') : statusTable);
      if (one || json) return;
      const config = await loadConfig(options().config);
      if (await hasLimits(config))
        process.stdout.write(`\n${(await limitLines(config, exports)).join('\n')}\n`);
    });

  xnbdctl
    .command('watch [name...]')
    .description('progress, live; with names: until those are complete')
    .action(async (names: string[]) => {
      const ended = new AbortController();
      process.once('SIGINT', () => ended.abort());
      process.once('SIGTERM', () => ended.abort());
      await watch(await watched(options(), names), process.stdout, ended.signal);
    });

  xnbdctl
    .command('log <name>')
    .description('what happened to a disk on this host, from the journal')
    .option('-f, --follow', 'go on with what happens from now on')
    .action(async (name: string, { follow = false }: { follow?: boolean }) => {
      checkName(name);
      await showLog(await paths(options()), name, follow);
    });

  xnbdctl
    .command('takeover [name]')
    .description('make this host the owner of a disk that arrives, now')
    .action(async (name: string | undefined) => {
      process.stdout.write(`${await takeOver(await controlPath(options(), name), name)}\n`);
    });

  xnbdctl
    .command('abandon [name]')
    .description('give up a disk that arrives, before its guest has written')
    .action(async (name: string | undefined) => {
      process.stdout.write(`${await abandon(await controlPath(options(), name), name)}\n`);
    });

  xnbdctl
    .command('reclaim <name>')
    .description('take back a disk that has moved away, from a host that is lost')
    .option('--force', 'give up what was written there')
    .action(async (name: string, { force = false }: { force?: boolean }) => {
      checkName(name);
      const config = await loadConfig(options().config);
      // TLS costs every other command time that it has no use for.
      const { reclaim } = await import('./reclaim.ts');
      const tell = (line: string): void => void process.stdout.write(`${line}\n`);
      process.stdout.write(`${await reclaim(config, { name, force, tell })}\n`);
    });

  xnbdctl
    .command('delete <name>')
    .description("delete what is left of a disk that is this host's no more")
    .option('--force', 'also what its guest wrote here last')
    .action(async (name: string, { force = false }: { force?: boolean }) => {
      checkName(name);
      process.stdout.write(`${await deleteLeft(await paths(options()), name, force)}\n`);
    });

  xnbdctl
    .command('verify [name]')
    .description('compare a disk with its origin, all but what its guest has written since the takeover')
    .option('--accept', 'take the disk as it is here, whatever the comparison found, and let the origin go')
    .addHelpText(
      'after',
      '\nThe exit code is 0 when they are equal, 1 when they differ or cannot be compared.',
    )
    .action(async (name: string | undefined, args: { accept?: true }) => {
      const path = await controlPath(options(), name);
      if (args.accept === true) process.stdout.write(`${await accept(path, name)}\n`);
      else await verify(path, name, process.stdout);
    });

  addSettingCommands(xnbdctl, options);
  addLimitCommands(xnbdctl, options);
  addRestartCommands(xnbdctl, options);

  addPkiCommands(xnbdctl, () => loadConfig(options().config));

  addDefinitionCommands(xnbdctl, options);
  return xnbdctl;
}

function addDefinitionCommands(xnbdctl: Command, options: () => GlobalOptions): void {
  for (const [change, description] of [
    ['adopt', 'turn the file disks of a shut-off domain into xNBD disks'],
    ['release', 'turn the xNBD disks of a shut-off domain into file disks'],
  ] as const) {
    const command = xnbdctl
      .command(`${change} <domain>`)
      .description(description)
      .option('--yes', 'show the change and make it without asking');
    if (change === 'adopt')
      command.option('--name <name>', "what the disks are named by: NAME-vda (default: the domain's name)");
    command.action(async (domain: string, { yes = false, name }: { yes?: boolean; name?: string }) => {
      const config = await loadConfig(options().config);
      // D-Bus and XML cost every other command time that it has no use for.
      const { changeDefinition } = await import('./adopt-release.ts');
      await changeDefinition(change, domain, yes, config, name, {
        input: process.stdin,
        output: process.stdout,
      });
    });
  }
}

function addLimitCommands(xnbdctl: Command, options: () => GlobalOptions): void {
  const set = async (name: string | undefined, key: string, value: string): Promise<void> => {
    checkSetting(key, value);
    process.stdout.write(`${await setSetting(await controlPath(options(), name), name, key, value)}\n`);
  };

  xnbdctl
    .command('limit [target] [rate]')
    .description('the most that a disk, all disks from a peer, or all of this host take of the path')
    .addHelpText(
      'after',
      `
xnbdctl limit                  what is set, and what holds now
xnbdctl limit 200M             all disks that arrive on this host, together
xnbdctl limit site-b 50M       all that come from a peer: a name in [peers], or the host of an origin
xnbdctl limit vm1-vda 20M      one disk

RATE is in bit/s, with k, M or G; 0: nothing; none: no limit; default: as xnbd.conf says.
What guests ask for counts, and is never held back.`,
    )
    .action(async (target: string | undefined, rate: string | undefined) => {
      process.stdout.write(`${await limit(options(), target, rate)}\n`);
    });

  xnbdctl
    .command('weight <name> <weight>')
    .description(
      'the part that a disk gets of a rate that several share: 1 to 10000 (100 unless set), or default',
    )
    .action((name: string, weight: string) => set(name, 'weight', weight));

  for (const [change, value, description] of [
    ['pause', 'on', 'copy nothing in the background; what the guest asks for comes as ever'],
    ['resume', 'off', 'copy in the background again'],
  ] as const) {
    xnbdctl
      .command(`${change} [name]`)
      .description(description)
      .option('--all', 'all disks of this host, those that arrive later too')
      .action(async (name: string | undefined, { all = false }: { all?: boolean }) => {
        if (all === (name !== undefined || options().ctl !== undefined))
          throw new UsageError('which disk? Name one, or say --all');
        if (!all) await set(name, 'paused', value);
        else
          process.stdout.write(`${await pauseAll(await loadConfig(options().config), change === 'pause')}\n`);
      });
  }
}

/** @returns what holds, in lines */
async function limit(
  globals: GlobalOptions,
  target: string | undefined,
  rate: string | undefined,
): Promise<string> {
  if (globals.ctl !== undefined) {
    if (target === undefined || rate !== undefined)
      throw new UsageError('which rate? Name it alone, after --ctl');
    checkSetting('copy-rate', target);
    return await setSetting(globals.ctl, undefined, 'copy-rate', target);
  }
  const config = await loadConfig(globals.config);
  if (target === undefined) return (await limitLines(config, await knownExports(config.paths))).join('\n');
  checkSetting('copy-rate', rate ?? target);
  const bits = chosenCap(rate ?? target);
  if (rate === undefined) return await setHostLimit(config, bits);
  const known = await knownExports(config.paths);
  if (!known.some(({ name }) => name === target)) return await setPeerLimit(config, known, target, bits);
  return await setSetting(exportPaths(config.paths, target).ctl, target, 'copy-rate', rate);
}

function addSettingCommands(xnbdctl: Command, options: () => GlobalOptions): void {
  xnbdctl
    .command('origin-timeout <name> <seconds>')
    .description(
      'how long its requests may wait for the origin before they get EIO: SECONDS, none or default',
    )
    .action(async (name: string, seconds: string) => {
      checkSetting('origin-timeout', seconds);
      process.stdout.write(`${await setOriginTimeout(await controlPath(options(), name), name, seconds)}\n`);
    });

  xnbdctl
    .command('set <name> <key> <value>')
    .description('change a setting of a disk that arrives, now; VALUE default: as its export was started')
    .addHelpText('after', `\n${changeable()}`)
    .action(async (name: string, key: string, value: string) => {
      if (diskRows.some(([known]) => known === key)) checkSetting(key, value);
      process.stdout.write(`${await setSetting(await controlPath(options(), name), name, key, value)}\n`);
    });
}

function addRestartCommands(xnbdctl: Command, options: () => GlobalOptions): void {
  const tell = (line: string): void => void process.stdout.write(`${line}\n`);
  const all = async (which: Which): Promise<void> => {
    const where = await paths(options());
    const found = await running(where, which, packageJson.version);
    await restartEach(
      where,
      found.map(({ name }) => name),
      tell,
    );
    if (found.length === 0) tell(which === 'all' ? 'no disk is served' : upgradable([], packageJson.version));
  };

  xnbdctl
    .command('restart [name]')
    .description("replace a disk's process by a new one, under its guest")
    .option('--all', 'of every disk, one after the other')
    .action(async (name: string | undefined, args: { all?: true }) => {
      if (args.all === true) await all('all');
      else tell(await restart(await controlPath(options(), name), name));
    });

  xnbdctl
    .command('upgrade [name]')
    .description('which disks are served by another release than the installed one; with a name: change that')
    .option('--all', 'of all of them, one after the other')
    .action(async (name: string | undefined, args: { all?: true }) => {
      if (args.all === true) await all('older');
      else if (name !== undefined) tell(await restart(await controlPath(options(), name), name));
      else
        tell(
          upgradable(
            await running(await paths(options()), 'older', packageJson.version),
            packageJson.version,
          ),
        );
    });
}

async function paths(options: GlobalOptions): Promise<HostPaths> {
  return (await loadConfig(options.config)).paths;
}

async function controlPath(options: GlobalOptions, name: string | undefined): Promise<string> {
  if (options.ctl !== undefined) return options.ctl;
  if (name === undefined) throw new UsageError('which disk? Name it, or its control socket with --ctl');
  checkName(name);
  return exportPaths(await paths(options), name).ctl;
}

async function gather(options: GlobalOptions, name: string | undefined): Promise<KnownExport[]> {
  if (options.ctl !== undefined) {
    const client = await connectRunning(options.ctl);
    try {
      const status = await client.status(ANSWER_LIMIT_MS);
      if (name === undefined || status.name === name) return [{ ...status, problem: null }];
      throw new Error(`${options.ctl} is the socket of ${status.name}, not ${name}`);
    } finally {
      client.close();
    }
  }
  const where = await paths(options);
  if (name === undefined) return await knownExports(where);
  checkName(name);
  const found = await knownExport(where, name);
  if (found === undefined)
    throw new Error(`no disk ${name} on this host: 'xnbdctl list' shows those that are here`);
  return [found];
}

async function watched(options: GlobalOptions, names: string[]): Promise<Parameters<typeof watch>[0]> {
  const { ctl } = options;
  if (ctl !== undefined) return { paths: () => Promise.resolve([ctl]), untilComplete: true };
  const where = await paths(options);
  names.forEach(checkName);
  const namesNow = (): Promise<string[]> => (names.length > 0 ? Promise.resolve(names) : exportNames(where));
  return {
    paths: async () => (await namesNow()).map((name) => exportPaths(where, name).ctl),
    untilComplete: names.length > 0,
  };
}

/** What may be set, a line each. */
function changeable(): string {
  const rows = diskRows.filter((row) => row[1].changeable);
  return rows.map(([name, { allowed, help }]) => `${name}: ${allowed}\n    ${help}`).join('\n');
}

function checkSetting(key: string, value: string): void {
  if (value === 'default') return;
  try {
    parseDiskSetting(key, value);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function checkName(name: string): void {
  try {
    checkExportName(name);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function print(exports: KnownExport[], json: boolean, text: (exports: KnownExport[]) => string): void {
  if (json) process.stdout.write(`${JSON.stringify(exports, null, 2)}\n`);
  else if (exports.length === 0) process.stdout.write('no disks\n');
  else process.stdout.write(`${text(exports)}\n`);
}
