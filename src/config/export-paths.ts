/** Where the things of one export lie on this host: paths, and nothing else. */
import { dirname, join } from 'node:path';

export interface HostPaths {
  images: string;
  exports: string;
  run: string;
}

export interface ExportPaths {
  /** The image that an arriving disk gets; a record may name another. */
  image: string;
  stateDir: string;
  socket: string;
  ctl: string;
  /** stderr of the process, where there is no systemd to take it. */
  log: string;
}

export function exportPaths(paths: HostPaths, name: string): ExportPaths {
  return {
    image: join(paths.images, `${name}.img`),
    stateDir: join(paths.exports, name),
    socket: join(paths.run, `${name}.sock`),
    ctl: join(paths.run, `${name}.ctl`),
    log: join(dirname(paths.exports), 'log', `${name}.log`),
  };
}
