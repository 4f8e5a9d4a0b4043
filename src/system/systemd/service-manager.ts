/**
 * The service manager, as one of its services sees it: sd_booted(3), sd_notify(3), sd_watchdog_enabled(3).
 * systemd lets libvirtd start only when our hooks are answered, and shows of an export what that says it
 * does.
 */
import { existsSync } from 'node:fs';
import { DgramSocket } from 'node-unix-socket';
import { log } from '../../log/log.ts';

/** What systemd tells its services through their environment; not for the children of those. */
const variables = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'SYSTEMD_EXEC_PID', 'FDSTORE'];

/** This process is the main process of a unit, on a host that systemd has booted. */
export function isService(environment: NodeJS.ProcessEnv = process.env): boolean {
  return existsSync('/run/systemd/system') && environment.SYSTEMD_EXEC_PID === String(process.pid);
}

/** The environment for a child that is no service. */
export function withoutServiceManager(environment: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const kept = Object.entries(environment).filter(([name]) => !variables.includes(name));
  return Object.fromEntries(kept);
}

/** Sends `READY=1` or the like to the socket that systemd named; nothing where there is none. */
export function tellServiceManager(state: string, path = process.env.NOTIFY_SOCKET): void {
  // systemd's is a path; abstract ones (`@...`) are for containers.
  if (path?.startsWith('/') !== true) return;
  try {
    const socket = new DgramSocket();
    const message = Buffer.from(state);
    socket.sendTo(message, 0, message.length, path, (error) => {
      if (error !== undefined) log.warning(`the service manager was not told '${state}': ${error.message}`);
      socket.close();
    });
  } catch (error) {
    log.warning(`the service manager was not told '${state}': ${(error as Error).message}`);
  }
}

/** How often this process has to say WATCHDOG=1, ms; null: it is not watched. */
export function watchdogMs(environment: NodeJS.ProcessEnv = process.env): number | null {
  const { WATCHDOG_USEC: period, WATCHDOG_PID: pid } = environment;
  if (period === undefined || (pid !== undefined && pid !== String(process.pid))) return null;
  const ms = Number(period) / 1000;
  return Number.isFinite(ms) && ms > 0 ? ms : null;
}
