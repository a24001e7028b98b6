// Chroma under guard, and the exporter beside it. Put in your paths, then: pm2 start ecosystem.config.js && pm2 save
module.exports = {
  apps: [
    {
      // guard looks at the store, repairs what loses nothing, and becomes the server. When it refuses it waits and says why, because pm2
      // would start it over and over.
      name: "chroma",
      script: "/srv/venv/bin/chroma_exporter",
      interpreter: "none",
      args: [
        "guard", "--store.path", "/srv/chroma", "--when-refused", "wait", "--",
        "/srv/venv/bin/chroma", "run", "--path", "/srv/chroma",
      ],
      // Chroma ends within seconds of SIGINT, and must not be killed while it writes.
      kill_timeout: 30000,
    },
    {
      name: "chroma_exporter",
      script: "/srv/venv/bin/chroma_exporter",
      interpreter: "none",
      args: ["serve", "--config.file", "/srv/chroma_exporter.yml"],
      kill_timeout: 10000,
    },
  ],
};
