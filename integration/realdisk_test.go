package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const smallDisk = 64 << 20

// mountSmallDisk mounts an empty disk of 64 MiB in memory, until the test ends.
func mountSmallDisk(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("grout-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", smallDisk))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("nothing may be mounted here, so no real disk was filled or made read-only (root may): %v", err)
	}
	if err != nil {
		t.Fatalf("mount a disk in memory: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// startOnDisk starts a process whose files are on small disks, with reporters.
func startOnDisk(t *testing.T, data string, partitions int) *campaign {
	c := &campaign{t: t, seed: uint64(time.Now().UnixNano()), data: data, partitions: partitions}
	c.rng = rand.New(rand.NewPCG(c.seed, 1))
	c.p = start(t, data, partitions, "MOZAIKS_WAIT_LIMIT="+waitLimit.String(), "MOZAIKS_FOLD_EVERY=500", "MOZAIKS_SNAPSHOT_EVERY=1s", "MOZAIKS_COMMAND_AGE=1s",
		"MOZAIKS_COMMAND_MAX_BYTES=16MiB", "MOZAIKS_FACT_MAX_BYTES=16MiB", "MOZAIKS_DEAD_LETTER_MAX_BYTES=16MiB")
	c.reporters = report(t, c.p, c.seed)
	return c
}

// broken waits until the fault shows, lets it stay, ends it, and waits until
// everything works again.
func (c *campaign) broken(what string, stays time.Duration, end func()) bool {
	t := c.t
	c.rounds++
	if !c.await(refuseWithin, func() bool { s := c.reporters.seen(); return s.refused > 0 && s.red > 0 }) {
		s := c.reporters.seen()
		t.Errorf("%s: %d reports refused, %d looks at /ready red", what, s.refused, s.red)
	}
	c.await(stays, func() bool { return false })
	end()
	began := time.Now()
	healed := c.heal(began)
	took := time.Since(began)
	c.slowestHeal = max(c.slowestHeal, took)
	s := c.reporters.turn()
	c.sum.add(s)
	t.Logf("%s: 200: %d, 202: %d, 503: %d, /ready red %d of %d (%s); working again after %s",
		what, s.answered, s.accepted, s.refused, s.red, s.red+s.green, s.reason, took.Round(time.Millisecond))
	if !healed {
		t.Errorf("%s: it did not work again within %s:\n%s", what, healWithin, c.p.Log())
		return false
	}
	return c.await(200*time.Millisecond, func() bool { return false }) || c.reporters.alive()
}

// A real disk is filled to its last byte, and emptied again.
func TestSmallDisk(t *testing.T) {
	rounds := max(1, kills(t)/10)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		disk := filepath.Join(t.TempDir(), "disk")
		mountSmallDisk(t, disk)
		c := startOnDisk(t, filepath.Join(disk, "data"), partitions)
		filler := filepath.Join(disk, "filler")
		for round := range rounds {
			c.reporters.turn()
			room := int64(c.rng.IntN(200 << 10))
			c.fill(filler, disk, room)
			ok := c.broken(fmt.Sprintf("round %d, %d bytes left", round, room), time.Duration(c.rng.Int64N(int64(2*time.Second))), func() {
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
			})
			if !ok {
				break
			}
		}
		c.finish()
	})
}

// fill makes a file that takes all of a disk but room bytes, while others write too.
func (c *campaign) fill(path, disk string, room int64) {
	c.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	filled := c.await(refuseWithin, func() bool {
		var st unix.Statfs_t
		if err = unix.Statfs(disk, &st); err != nil {
			return false
		}
		left := int64(st.Bavail) * st.Bsize
		if left <= room {
			return true
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, left-room)
		return err == nil
	})
	if !filled {
		c.t.Fatalf("fill the disk: %v", err)
	}
}

// The disks of the store, of the streams, and of both are made read-only, and
// writable again. A disk with files open for writing cannot be made read-only, so a
// file size limit first makes the process close what it has open.
func TestReadOnlyDisk(t *testing.T) {
	rounds := max(3, kills(t)/10)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		store, streams := filepath.Join(data, "store"), filepath.Join(data, "nats")
		mountSmallDisk(t, store)
		mountSmallDisk(t, streams)
		c := startOnDisk(t, data, partitions)
		for round := range rounds {
			name, disks := "store", []string{store}
			switch round % 3 {
			case 1:
				name, disks = "streams", []string{streams}
			case 2:
				name, disks = "both", []string{store, streams}
			}
			c.reporters.turn()
			limit(t, c.p, 4<<10)
			for _, disk := range disks {
				if !c.await(refuseWithin, func() bool { return remount(disk, unix.MS_RDONLY) == nil }) {
					t.Fatalf("%s could not be made read-only: %v", disk, remount(disk, unix.MS_RDONLY))
				}
			}
			limit(t, c.p, unix.RLIM_INFINITY)
			c.reporters.turn() // from here on it is the disk alone
			ok := c.broken(fmt.Sprintf("round %d, %s", round, name), time.Duration(c.rng.Int64N(int64(3*time.Second))), func() {
				for _, disk := range disks {
					if err := remount(disk, 0); err != nil {
						t.Fatal(err)
					}
				}
			})
			if !ok {
				break
			}
		}
		c.finish()
	})
}

func remount(dir string, flags uintptr) error {
	return unix.Mount("grout-test", dir, "tmpfs", unix.MS_REMOUNT|flags, fmt.Sprintf("size=%d", smallDisk))
}
