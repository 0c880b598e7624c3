// Package integration tests grout from outside: real processes, real NATS, real
// files. process starts and kills them, oracle proves their numbers. It imports
// cmd/grout/app, bus and schemas.
package integration
