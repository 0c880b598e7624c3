package store

import (
	"bytes"
	"fmt"
)

// SetRunResult keeps the result of an execution, JSON, until DropRunResult.
func (tx *Tx) SetRunResult(r *Run, result []byte) error {
	if err := tx.putRunBody(r, bodyResult, result); err != nil {
		return err
	}
	r.Execution.HasResult = true
	return faultOf("write run", tx.put(bucketRuns, r.key(), r.append(nil)))
}

// DropRunResult removes the result of an execution, if there is one.
func (tx *Tx) DropRunResult(r *Run) error {
	if r.Execution == nil || !r.Execution.HasResult {
		return nil
	}
	if err := tx.dropRunBody(r, bodyResult); err != nil {
		return err
	}
	return faultOf("write run", tx.put(bucketRuns, r.key(), r.append(nil)))
}

// runBody is what stands beside a run in `run_bodies`.
type runBody byte

const (
	bodyData runBody = iota + 1
	bodyResult
)

func (r *Run) keyBody(what runBody) []byte { return append(r.key(), byte(what)) }

func (tx *Tx) putRunBody(r *Run, what runBody, content []byte) error {
	v := append(make([]byte, 0, 1+len(content)+sealSize), 1)
	return faultOf("write run", tx.put(bucketRunBodies, r.keyBody(what), append(v, content...)))
}

func (tx *Tx) dropRunBody(r *Run, what runBody) error {
	x := r.Execution
	if x == nil {
		return nil
	}
	has := &x.HasData
	if what == bodyResult {
		has = &x.HasResult
	}
	if !*has {
		return nil
	}
	*has = false
	was, err := tx.delete(bucketRunBodies, r.keyBody(what))
	if err == nil && !was {
		err = errDamaged
	}
	return faultOf("write run", err)
}

// readRunBody is a copy, so it may outlive the transaction.
func readRunBody(t reading, r *Run, what runBody) ([]byte, error) {
	v, err := t.bucket(bucketRunBodies).get(r.keyBody(what))
	if err == nil && (len(v) == 0 || v[0] != 1) {
		err = errDamaged
	}
	if err != nil {
		return nil, fmt.Errorf("body of the run at %d/%d: %w", r.Place.Seq, r.Place.Index, err)
	}
	return bytes.Clone(v[1:]), nil
}
