// Command floor answers 202 to every request and does nothing else: what HTTP
// alone allows. It prints its address first.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/labstack/echo/v4"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() error {
	e := echo.New()
	e.POST("/*", func(c echo.Context) error { return c.NoContent(http.StatusAccepted) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	return (&http.Server{Handler: e}).Serve(l)
}
