/** xnbd-export: one disk, served over NBD. Arguments in, objects wired, nothing else. */
import { hostname } from 'node:os';
import { dirname, resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import packageJson from '../../package.json' with { type: 'json' };
import { type Address, parseAddress } from '../config/address.ts';
import { parseAllowedPeers } from '../config/allowed-peers.ts';
import { defaultConfigPath, loadConfig } from '../config/config.ts';
import { type DiskSettingValues, parseSettingArgument } from '../config/settings.ts';
import { exportArguments } from '../daemon/exports/arguments.ts';
import { readArrivalNote } from '../daemon/exports/arrival-note.ts';
import { takeOverFrom } from '../export/hand-over/taken.ts';
import { type RunningExport, type ServeOptions, serve, serveUntilStopped } from '../export/serve.ts';
import { openTarget } from '../export/target.ts';
import { oneLine } from '../log/line.ts';
import { configureLog, log } from '../log/log.ts';
import { logToJournal } from '../log/native.ts';
import { isHolder } from '../nbd/handshake/attach.ts';
import { certificatesIn } from '../pki/certificate-files.ts';
import { Credentials } from '../pki/credentials.ts';
import type { TlsParty } from '../pki/tls.ts';
import { openServedProxy } from '../relocation/served-proxy.ts';
import { checkExportName } from '../store/records/record.ts';
import { nameProcess } from '../system/process-name.ts';
import { exitNow } from '../system/syscalls.ts';
import { tellServiceManager } from '../system/systemd/service-manager.ts';
import { nameOfInstance } from '../system/systemd/unit-name.ts';

interface CommonArguments {
  image: string;
  socket: string;
  socketGroup?: string;
  listen?: Address;
  state?: string;
  ctl?: string;
  sourceGone: 'disconnect' | 'told';
}

interface ProxyArguments extends CommonArguments {
  allowOldstyle?: true;
  origin: string;
  takeover: 'first-write' | 'now';
  verify?: true;
  holder?: string;
  originTimeout?: Partial<DiskSettingValues>;
  set?: Partial<DiskSettingValues>;
  awaitShare?: true;
  tlsDir?: string;
  tlsCa?: string;
  tlsCrl?: string;
  tlsCert?: string;
  tlsKey?: string;
  tlsAllow?: string[];
  tlsOnlyAllowed?: true;
  originUuid?: string;
  originGeneration?: number;
}

// A read that is not in the page cache occupies a thread for its latency, a sync too. Read by libuv when the
// pool is first used.
process.env['UV_THREADPOOL_SIZE'] ??= '16';

/**
 * A fault of the program. 1 is for what it has said of the world, which would be the same at once again; so
 * systemd starts an export again after a fault and not after that (packaging/systemd).
 */
const FAULT_EXIT = 70;

/** Once it serves. */
let serving: RunningExport | null = null;

/** Its command line, which manual pages and completion tell, too. */
export const program = new Command('xnbd-export')
  .description('serve one disk over NBD')
  .version(packageJson.version)
  .hook('preAction', (_program, command) => {
    const name = nameOfInstance(command.args[0]!);
    configureLog({ disk: name });
    logToJournal('xnbd-export', () => ({
      export: name,
      ...(serving !== null && { state: serving.status().state }),
    }));
  });

withCommonOptions(program.command('target'))
  .description('serve a disk whose blocks are all here')
  .option('--read-only', 'refuse writes')
  .action(async (name: string, args: CommonArguments & { readOnly?: true }) => {
    const readOnly = args.readOnly ?? false;
    const options = serveOptions(args, readOnly);
    const taken = takeOverFrom(packageJson.version);
    const served = await openTarget({ name, image: args.image, stateDir: stateDirectory(args), readOnly });
    serving = await serve(options, served, taken);
    process.exitCode = await serveUntilStopped(options, serving);
  });

withCommonOptions(program.command('proxy'))
  .description('serve a disk at once whose blocks are still at an origin, and bring them here')
  .requiredOption(
    '--origin <uri>',
    'nbd://HOST[:PORT]/NAME, nbds:// for TLS, or nbd+unix:///NAME?socket=PATH',
  )
  .option('--allow-oldstyle', 'take an origin that speaks oldstyle NBD, which has one export without a name')
  .option('--tls-dir <dir>', 'for an nbds origin: ca-cert.pem, client-cert.pem and client-key.pem')
  .option('--tls-ca <file>', 'instead: certificates of the CA')
  .option('--tls-crl <file>', 'and what the CA took back')
  .option('--tls-cert <file>', 'and our own certificate')
  .option('--tls-key <file>', 'and its key')
  .option(
    '--tls-allow <list>',
    "names and sha256: fingerprints of origins' certificates, besides the host name of the URI",
    parseAllow,
  )
  .option('--tls-only-allowed', 'those alone: that a certificate is of the host of the URI is not enough')
  .option('--origin-uuid <uuid>', 'the disk that the origin has to be, when it is met for the first time')
  .option('--origin-generation <number>', 'and of which generation', Number)
  .option(
    '--holder <host:port>',
    'where this host is found, told to the origin (default: the host name)',
    parseHolder,
  )
  .option('--set <key=value>', 'a setting, as in [relocation] of xnbd.conf; any number', parseSetting)
  .option(
    '--origin-timeout <seconds>',
    'the same as --set origin-timeout=SECONDS; none: requests wait for ever',
    (text) => parseSetting(`origin-timeout=${text}`),
  )
  .addOption(
    new Option('--takeover <when>', 'when the origin is fenced and blocks are kept')
      .choices(['first-write', 'now'])
      .default('first-write'),
  )
  .option('--await-share', 'copy nothing in the background before xnbdd has told how much')
  .option('--verify', 'the same as --set verify=on')
  .action(async (name: string, args: ProxyArguments) => {
    const options = serveOptions(args, false);
    const { origin, image, allowOldstyle = false, verify = false } = args;
    const taken = takeOverFrom(packageJson.version);
    const served = await openServedProxy(
      {
        name,
        image,
        origin,
        allowOldstyle,
        settings: { ...(verify && { verify }), ...args.originTimeout, ...args.set },
        awaitShare: args.awaitShare ?? false,
        waitForGuest: args.sourceGone === 'told',
        ...(args.originUuid !== undefined && {
          expected: { uuid: args.originUuid, generation: args.originGeneration ?? 0 },
        }),
        holder: args.holder ?? hostname().replaceAll(/[^A-Za-z0-9_.-]/g, ''),
        stateDir: stateDirectory(args),
        run: dirname(options.socket),
        tls: await tlsParty(args),
      },
      taken,
    );
    const running = await serve(options, served, taken);
    serving = running;
    served.relocation.onChange = () => running.changed();
    void served.relocation.reclaimed.promise.then(() => running.export.lender.becomeReclaimed());
    if (args.takeover === 'now') await served.relocation.takeOver('command line');
    process.exitCode = await serveUntilStopped(options, running);
  });

program
  .command('unit')
  .description(
    'serve a disk of this host as its record and xnbd.conf say: what xnbd-export@INSTANCE.service runs',
  )
  .argument('<instance>', 'name of the export, as systemd-escape writes it')
  .option('--config <file>', `configuration (default: ${defaultConfigPath})`)
  .action(async (instance: string, { config: path }: { config?: string }) => {
    const name = nameOfInstance(instance);
    checkExportName(name);
    const config = await loadConfig(path);
    configureLog({ disk: name, level: config.log.level });
    const arrival = await readArrivalNote(config.paths.run, name);
    await program.parseAsync(await exportArguments(config, name, arrival), { from: 'user' });
  });

function withCommonOptions(command: Command): Command {
  return command
    .argument('<name>', 'name of the export')
    .requiredOption('--image <file>', 'raw file or block device')
    .requiredOption('--socket <path>', 'unix socket for NBD clients')
    .option('--socket-group <name>', 'group that may connect to it (default: libvirt-qemu or qemu)')
    .option('--listen <host:port>', 'serve plain TCP, too', parseListen)
    .option('--state <dir>', 'identity, state and present map (default: FILE.xnbd)')
    .option('--ctl <path>', 'control socket (default: SOCKET.ctl)')
    .addOption(
      new Option('--source-gone <word>', "what tells a lease holder that the source's guest is gone")
        .choices(['disconnect', 'told'])
        .default('disconnect'),
    );
}

function stateDirectory(args: CommonArguments): string {
  return resolve(args.state ?? `${args.image}.xnbd`);
}

function serveOptions(args: CommonArguments, readOnly: boolean): ServeOptions {
  const socket = resolve(args.socket);
  const ctl = resolve(args.ctl ?? `${socket}.ctl`);
  return {
    socket,
    socketGroup: args.socketGroup,
    ctl,
    listen: args.listen,
    readOnly,
    sourceGone: args.sourceGone,
  };
}

async function tlsParty(args: ProxyArguments): Promise<TlsParty | undefined> {
  const onlyAllowed = args.tlsOnlyAllowed ?? false;
  const { tlsDir, tlsCa: ca, tlsCrl: crl = null, tlsCert: cert, tlsKey: key, tlsAllow: allow = [] } = args;
  if (ca !== undefined && cert !== undefined && key !== undefined)
    return { credentials: new Credentials({ ca, crl, cert, key }), allow, onlyAllowed };
  if ([ca, cert, key].some((file) => file !== undefined))
    throw new Error('--tls-ca, --tls-cert and --tls-key go together');
  if (tlsDir === undefined) return undefined;
  return {
    credentials: new Credentials(await certificatesIn(resolve(tlsDir), 'client')),
    allow,
    onlyAllowed,
  };
}

function parseAllow(text: string): string[] {
  const allowed = parseAllowedPeers(text);
  if (allowed === undefined)
    throw new InvalidArgumentError('it must be NAME or sha256:FINGERPRINT, separated by commas');
  return allowed;
}

function parseHolder(text: string): string {
  if (isHolder(text)) return text;
  throw new InvalidArgumentError('it must be HOST:PORT, for example b.example:10809');
}

function parseSetting(word: string, before: Partial<DiskSettingValues> = {}): Partial<DiskSettingValues> {
  try {
    return { ...before, ...parseSettingArgument(word) };
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

function parseListen(text: string): Address {
  const address = parseAddress(text.startsWith(':') ? `0.0.0.0${text}` : text, 0);
  if (address !== undefined) return address;
  throw new InvalidArgumentError('it must be HOST:PORT, for example 127.0.0.1:10809');
}

/** Does what the arguments of this process say; does not return. */
export async function main(): Promise<void> {
  nameProcess('xnbd-export');
  process.on('uncaughtException', (error) => {
    log.error(`it ends, because of a fault of its own: ${error.stack}`, { id: 'export-fault' });
    exitNow(FAULT_EXIT);
  });
  try {
    await program.parseAsync();
  } catch (error) {
    const { message } = error as Error;
    log.error(message, { id: 'export-not-started' });
    // Last words: the daemon, and systemctl status, tell them.
    tellServiceManager(`STATUS=${oneLine(message)}`);
    process.exitCode = 1;
  }
  // Whatever still keeps the loop or a thread alive has no more say.
  exitNow(Number(process.exitCode ?? 0));
}

if (import.meta.main) await main();
