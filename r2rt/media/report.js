"use strict";
(() => {
  const page = document.querySelector(".page");
  const video = document.querySelector("video");
  if (!video) return;
  const root = document.documentElement;
  const timelines = [...document.querySelectorAll(".timeline")];
  const moments = [...document.querySelectorAll("[data-start]")];
  let startAt = 0, stopAt = Infinity;

  const withoutPlayer = () => {
    page.classList.add("no-player");
    root.classList.remove("can-seek", "playing");
    document.querySelector(".no-video").hidden = false;
  };
  const canPlay = () => !page.classList.contains("no-player");

  const play = (start, end) => {
    [startAt, stopAt] = [start, end];
    video.currentTime = start;
    const started = video.play();
    if (started) started.catch(() => {});
  };

  const show = () => {
    const now = video.currentTime;
    if (now >= stopAt) {
      video.pause();
      stopAt = Infinity;
    }
    for (const line of timelines) {
      const from = Number(line.dataset.from), to = Number(line.dataset.to);
      line.style.setProperty("--at", (now - from) / (to - from));
    }
    for (const moment of moments) {
      const inside = now >= Number(moment.dataset.start) && now < Number(moment.dataset.end);
      moment.classList.toggle("now", inside);
    }
    root.classList.add("playing");
  };

  root.classList.add("can-seek");
  document.addEventListener("click", (event) => {
    if (!canPlay() || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const moment = event.target.closest("[data-start]");
    if (moment) {
      event.preventDefault();
      play(Number(moment.dataset.start), Number(moment.dataset.end));
      return;
    }
    const plot = event.target.closest(".plot");
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    const line = plot.closest(".timeline");
    const from = Number(line.dataset.from), to = Number(line.dataset.to);
    play(from + ((event.clientX - box.left) / box.width) * (to - from), Infinity);
  });
  // Whoever moves the player's own slider out of the moment wants to go on watching.
  video.addEventListener("seeking", () => {
    if (video.currentTime < startAt - 0.5 || video.currentTime > stopAt) stopAt = Infinity;
  });
  video.addEventListener("timeupdate", show);
  video.addEventListener("error", withoutPlayer);
  if (video.error) withoutPlayer();
})();
