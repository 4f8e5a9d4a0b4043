/**
 * Word to the service manager (sd_notify(3)): systemd lets libvirtd start only when our hooks are answered.
 */
import { DgramSocket } from 'node-unix-socket';
import { log } from '../log/log.ts';

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
