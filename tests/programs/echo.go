// Go makes its system calls itself: such a program stays with the kernel, undisturbed.
// `server PORT` echoes over HTTP; `client URL` compares.
package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
)

func main() {
	if os.Args[1] == "server" {
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			data, _ := io.ReadAll(r.Body)
			w.Write(data)
		})
		panic(http.ListenAndServe(":"+os.Args[2], nil))
	}
	for i := 0; i < 50; i++ {
		data := make([]byte, i*40000)
		rand.Read(data)
		response, err := http.Post(os.Args[2], "application/octet-stream", bytes.NewReader(data))
		if err != nil {
			panic(err)
		}
		back, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !bytes.Equal(data, back) {
			panic(fmt.Sprint("echo ", i, " ", err))
		}
	}
	// A child that is dynamically linked is accelerated again.
	out, err := exec.Command("curl", "-s", "-d", "from a child", os.Args[2]).Output()
	if err != nil || string(out) != "from a child" {
		panic(fmt.Sprint(string(out), err))
	}
	fmt.Println("fine")
}
