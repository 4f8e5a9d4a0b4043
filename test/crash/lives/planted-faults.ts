/**
 * Faults to plant, each one that a store could have: the checker must find every one of them. Patched into
 * the product's parts, for one life.
 */
import type { Served } from '../../../src/export/serve.ts';
import { ReceiveBuffer } from '../../../src/nbd/receive-buffer.ts';
import { Image } from '../../../src/store/image/image.ts';
import { LostWrites } from '../../../src/store/maps/lost-writes.ts';
import { mapHeader } from '../../../src/store/maps/map-file.ts';
import { pageCacheOf } from '../../../src/store/maps/page-cache.ts';
import { type MappedImage, PresentMap } from '../../../src/store/maps/present-map.ts';
import { playing } from '../files/recorder.ts';
import type { Plant } from './hosts.ts';

interface PlantIn {
  begin?: () => void;
  end?: () => void;
  served?: Plant;
}

/** Replaces methods while a life is recorded. */
function patching<T extends object>(target: T, patch: (original: T) => Partial<T>): PlantIn {
  const changed = target as Record<string, unknown>;
  let kept: [string, unknown][] = [];
  return {
    begin: () => {
      const replaced = patch({ ...target, ...methodsOf(target) });
      kept = Object.keys(replaced).map((name) => [name, changed[name]]);
      Object.assign(changed, replaced);
    },
    end: () => {
      for (const [name, value] of kept) changed[name] = value;
    },
  };
}

function methodsOf<T extends object>(target: T): Partial<T> {
  return Object.fromEntries(
    Object.entries(Object.getOwnPropertyDescriptors(target))
      .filter(([, descriptor]) => typeof descriptor.value === 'function')
      .map(([name, descriptor]) => [name, descriptor.value as unknown]),
  ) as Partial<T>;
}

/** A write is answered, and so marked, before it is made. */
const mapWrittenBeforeData = patching(Image.prototype, (original) => ({
  write(this: Image, data, position, done) {
    const owned = Buffer.from(data);
    setImmediate(() => original.write.call(this, owned, position, { complete: () => undefined }));
    done.complete(0);
  },
}));

/** A checkpoint writes and syncs the map, and then the image; the flush waits for both. */
const mapSyncedBeforeData: PlantIn = (() => {
  const images = new WeakMap<PresentMap, MappedImage>();
  const unsynced = ({ path }: MappedImage): MappedImage => ({ path, sync: (done) => done.complete(0) });
  const openings = patching<typeof PresentMap>(PresentMap, (original) => ({
    async create(dir, identity, image) {
      const map = await original.create.call(PresentMap, dir, identity, unsynced(image));
      images.set(map, image);
      return map;
    },
    async open(dir, identity, image) {
      const map = await original.open.call(PresentMap, dir, identity, unsynced(image));
      images.set(map, image);
      return map;
    },
  }));
  const flushes = patching(PresentMap.prototype, (original) => ({
    flush(this: PresentMap, done) {
      original.flush.call(this, {
        complete: (errno) => {
          if (errno === 0) images.get(this)!.sync(done);
          else done.complete(errno);
        },
      });
    },
  }));
  return {
    begin: () => {
      openings.begin?.();
      flushes.begin?.();
    },
    end: () => {
      openings.end?.();
      flushes.end?.();
    },
  };
})();

/** A connection that has not written itself is told at once that all is flushed. */
const flushSkipsConnection: PlantIn = (() => {
  let receiving: ReceiveBuffer | null = null;
  const receives = (buffer: ReceiveBuffer) => {
    receiving = buffer;
  };
  const noteReceiver = patching(ReceiveBuffer.prototype, (original) => ({
    filled(this: ReceiveBuffer, count) {
      receives(this);
      original.filled.call(this, count);
    },
  }));
  return {
    ...noteReceiver,
    served: (served) => {
      const dirty = new Set<ReceiveBuffer | null>();
      const { disk } = served;
      const write = disk.write.bind(disk);
      const flush = disk.flush.bind(disk);
      disk.write = (data, offset, fua, done) => {
        dirty.add(receiving);
        write(data, offset, fua, done);
      };
      disk.flush = (done) => {
        if (dirty.delete(receiving)) flush(done);
        else done.complete(0);
      };
      return served;
    },
  };
})();

/** Directories are not synced: what is renamed, made or removed may not be. */
const renameWithoutDirectorySync: PlantIn = {
  begin: () => {
    playing.forgetsDirectorySyncs = true;
  },
  end: () => {
    playing.forgetsDirectorySyncs = false;
  },
};

/** The fence is answered without being written down. */
const fenceInMemory: PlantIn = {
  served: (served: Served) => {
    const { keeper } = served;
    const { update } = keeper;
    const forgetful: typeof update = (change) => {
      if (typeof change === 'function' || change.state !== 'fenced') return update(change);
      Object.assign(keeper.record, change);
      return Promise.resolve();
    };
    Object.assign(keeper, { update: forgetful });
    return served;
  },
};

/** A failed sync leaves the next process what it would have without one: `present.live`, with its header. */
const failedSyncForgotten = patching(LostWrites.prototype, () => ({
  async replace(_livePath, live, _pages, stateDir, identity) {
    const head = mapHeader('present map', identity, await pageCacheOf(identity.image, stateDir));
    await live.write(head, 0, head.length, 0);
  },
}));

/**
 * Boot alone says that the page cache is the same. It is so from the first life on, for those who look at
 * what is left.
 */
const trustedByBoot: PlantIn = {
  begin: () => {
    playing.forgetsRemounts = true;
  },
};

export const plants = {
  'map written before data': mapWrittenBeforeData,
  'map synced before data': mapSyncedBeforeData,
  'a flush that skips one connection': flushSkipsConnection,
  'a rename without a directory sync': renameWithoutDirectorySync,
  'a fence kept only in memory': fenceInMemory,
  'a failed sync that a restart forgets': failedSyncForgotten,
  'a page cache that is trusted by the boot alone': trustedByBoot,
} satisfies Record<string, PlantIn> as Record<PlantedFault, PlantIn>;

export type PlantedFault =
  | 'map written before data'
  | 'map synced before data'
  | 'a flush that skips one connection'
  | 'a rename without a directory sync'
  | 'a fence kept only in memory'
  | 'a failed sync that a restart forgets'
  | 'a page cache that is trusted by the boot alone';
