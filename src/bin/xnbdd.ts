/**
 * `xnbdd [--config FILE]`: the resident daemon of a host. It may be stopped and started at any time: the
 * exports go on without it.
 */
import { parseArgs } from 'node:util';
import packageJson from '../../package.json' with { type: 'json' };
import { type Config, loadConfig } from '../config/config.ts';
import { type Daemon, startDaemon } from '../daemon/daemon.ts';
import { exportArguments } from '../daemon/exports/arguments.ts';
import { ChildLauncher, exportProgram } from '../daemon/exports/child-launcher.ts';
import type { Launcher } from '../daemon/exports/launcher.ts';
import { UnitLauncher } from '../daemon/exports/unit-launcher.ts';
import { log } from '../log/log.ts';
import { startResidentLog } from '../log/resident.ts';
import { nameProcess } from '../system/process-name.ts';
import { exitNow } from '../system/syscalls.ts';
import { isService, tellServiceManager } from '../system/systemd/service-manager.ts';
import { ServiceUnits } from '../system/systemd/service-units.ts';

function usage(reason: string): never {
  process.stderr.write(`xnbdd: ${reason}\nusage: xnbdd [--config FILE] [--export-program FILE]\n`);
  process.exit(2);
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        config: { type: 'string' },
        'export-program': { type: 'string' },
        version: { type: 'boolean' },
      },
    });
    if (values.version === true) {
      process.stdout.write(`${packageJson.version}\n`);
      process.exit(0);
    }
    return values;
  } catch (error) {
    return usage((error as Error).message);
  }
}

/**
 * Under systemd exports are its units, too; else, and where another program is to be started in their place,
 * they are children of the daemon.
 */
async function launcherFor(config: Config, program: string | undefined): Promise<Launcher> {
  const { paths } = config;
  if (isService() && program === undefined) return await UnitLauncher.open(paths, new ServiceUnits());
  return new ChildLauncher({
    paths,
    program: program ?? exportProgram(),
    argumentsOf: (name, arrival) => exportArguments(config, name, arrival),
  });
}

nameProcess('xnbdd');
const options = readArguments();
try {
  const config = await loadConfig(options.config);
  let daemon: Daemon | null = null;
  const endLog = startResidentLog({
    identifier: 'xnbdd',
    level: config.log.level,
    complete: (fields) => daemon?.knownFields(fields) ?? {},
  });
  const started = await startDaemon({
    config,
    launcher: await launcherFor(config, options['export-program'] ?? process.env.XNBD_EXPORT),
    version: packageJson.version,
  });
  daemon = started;
  tellServiceManager('READY=1');
  log.info(`ready: hooks on ${config.paths.run}/hook.sock`, { id: 'daemon-ready' });
  const end = (): void => {
    tellServiceManager('STOPPING=1');
    void started.close().then(() => {
      log.info('ended; the exports go on', { id: 'daemon-ended' });
      endLog();
      exitNow(0);
    });
  };
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
} catch (error) {
  process.stderr.write(`xnbdd: ${(error as Error).message}\n`);
  process.exit(1);
}
