// Package plugins is the plugin host: it finds plugins on disk, keeps workers for them
// and calls them, inside limits of time, memory and number.
//
// It may import schemas and nothing else of the project.
//
// Its invariant: a call ends by its plugin's time limit, and so does everything that the
// call started; a call that has begun is finished by the version of the plugin that began
// it, whatever happens on disk meanwhile; and no plugin waits for another.
package plugins
