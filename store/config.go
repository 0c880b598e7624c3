package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// ConfigVersion is what a name of the configuration stood for from a command on.
// Form 1 (`config`: name, log position, index): form, digest, handler time, content.
type ConfigVersion struct {
	Name    string
	Place   Place
	Digest  schemas.ConfigDigest
	At      int64 // handler time: nanoseconds since 1970 UTC
	Content []byte
}

func keyConfig(name string, at Place) []byte {
	b := appendText(nil, name)
	b = binary.BigEndian.AppendUint64(b, at.Seq)
	return binary.BigEndian.AppendUint32(b, at.Index)
}

func (v *ConfigVersion) append(b []byte) []byte {
	b = append(b, 1)
	b = append(b, v.Digest[:]...)
	b = binary.AppendVarint(b, v.At)
	b = binary.AppendUvarint(b, uint64(len(v.Content)))
	return append(b, v.Content...)
}

func parseConfig(key, value []byte) (*ConfigVersion, error) {
	k := newReader(key)
	v := &ConfigVersion{Name: k.text()}
	if at := k.Bytes(12); at != nil {
		v.Place = Place{binary.BigEndian.Uint64(at), binary.BigEndian.Uint32(at[8:])}
	}
	r := newReader(value)
	r.Form(1)
	copy(v.Digest[:], r.Bytes(uint64(len(v.Digest))))
	v.At = r.Varint()
	v.Content = bytes.Clone(r.Bytes(r.Uvarint()))
	if k.Err != nil {
		return nil, k.Err
	}
	return v, r.Err
}

// Config gives what a name stands for, up to the running command; nil when it stands
// for nothing. Nobody changes it.
func (tx *Tx) Config(name string) *ConfigVersion {
	if v := tx.stage.config[name]; v != nil {
		return v
	}
	return tx.store.config[name]
}

// Owns reports whether an app belongs to the partition of this store.
func (tx *Tx) Owns(app string) bool {
	return schemas.PartitionOf(app, tx.store.opts.Partitions) == tx.store.opts.Partition
}

// SetConfig lets a name stand for other content, from the command with the given index
// on. It reports whether that changes anything.
func (tx *Tx) SetConfig(command uint32, c *schemas.ConfigChange) (bool, error) {
	if have := tx.Config(c.Name); have != nil && have.Digest == c.Digest {
		return false, nil
	}
	v := &ConfigVersion{
		Name: strings.Clone(c.Name), Place: tx.Place(command), Digest: c.Digest, At: tx.applied.Now, Content: bytes.Clone(c.Content),
	}
	if err := tx.add(bucketConfig, keyConfig(v.Name, v.Place), v.append(nil)); err != nil {
		return false, &Fault{"write configuration", err}
	}
	if tx.stage.config == nil {
		tx.stage.config = map[string]*ConfigVersion{}
	}
	tx.stage.config[v.Name] = v
	return true, nil
}

// Config gives what a name stands for; nil when it stands for nothing.
func (s *Store) Config(name string) *ConfigVersion {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.config[name]
}

// ConfigNames lists what there is a configuration of.
func (s *Store) ConfigNames() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.config))
}

// ConfigHistory lists every version of the configuration, by name and then by age,
// the oldest first.
func (s *Store) ConfigHistory() (list []*ConfigVersion, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		list, err = readConfig(bolt)
		return err
	})
	return list, err
}

func readConfig(bolt *bbolt.Tx) (list []*ConfigVersion, err error) {
	c := bucketOf(bolt, bucketConfig).cursor()
	for k, value := c.first(); k != nil; k, value = c.next() {
		v, err := parseConfig(k, value)
		if err != nil {
			return nil, fmt.Errorf("configuration at %x: %w", k, err)
		}
		list = append(list, v)
	}
	return list, c.err
}

func (s *Store) loadConfig(bolt *bbolt.Tx) error {
	s.config = map[string]*ConfigVersion{}
	list, err := readConfig(bolt)
	for _, v := range list {
		s.config[v.Name] = v // the newest comes last
	}
	return err
}
