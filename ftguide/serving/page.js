() => document.querySelectorAll(".say").forEach(line => {
  line.setAttribute("role", "status");  // a screen reader says what changes here
  line.setAttribute("aria-live", "polite");
})
