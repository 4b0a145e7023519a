/* A server that answers each read with a fixed answer: what a socket alone costs. */
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char answer[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

int main(int count, char **words) {
  struct sockaddr_un place = {.sun_family = AF_UNIX};
  char data[65536];
  if (count != 2) return 2;
  strncpy(place.sun_path, words[1], sizeof place.sun_path - 1);
  int listening = socket(AF_UNIX, SOCK_STREAM, 0), watch = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listening};
  if (bind(listening, (struct sockaddr *)&place, sizeof place) || listen(listening, 128)) return 3;
  epoll_ctl(watch, EPOLL_CTL_ADD, listening, &event);
  for (;;) {
    if (epoll_wait(watch, &event, 1, -1) < 1) continue;
    if (event.data.fd == listening) {
      event.data.fd = accept(listening, 0, 0);
      epoll_ctl(watch, EPOLL_CTL_ADD, event.data.fd, &event);
    } else if (read(event.data.fd, data, sizeof data) < 1) {
      close(event.data.fd);
    } else if (write(event.data.fd, answer, sizeof answer - 1) < 0) {
      close(event.data.fd);
    }
  }
}
